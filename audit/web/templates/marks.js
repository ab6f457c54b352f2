// Where the rater clicked missed objects.

const marks = { isAsked: false, points: [] };
// A cross that the arrows move.
const cursor = { isShown: false, x: 0, y: 0 };
const NEAR_PX = 14;

function askMarks(isAsked) {
  Object.assign(marks, { isAsked, points: [] });
  Object.assign(cursor, { isShown: false, x: view.width / 2, y: view.height / 2 });
  stage.classList.toggle("is-pointing", isAsked);
  showMarks();
}

function drawMarks() {
  const at = ({ x, y }) => `translate(${x} ${y}) scale(${1 / view.scale})`;
  for (const [number, mark] of [...byId("marks").children].entries()) mark.setAttribute("transform", at(marks.points[number]));
  byId("cursor").setAttribute("transform", at(cursor));
  byId("cursor").setAttribute("visibility", cursor.isShown ? "visible" : "hidden");
}

function showMarks() {
  byId("marks").replaceChildren(...marks.points.map(() => {
    const mark = draw("g", { class: "mark" });
    mark.append(draw("circle", { r: 10, class: "halo" }), draw("circle", { r: 10, class: "line" }), draw("circle", { r: 2, class: "dot" }));
    return mark;
  }));
  drawMarks();
  showPointing();
}

// Sets a mark; one beside an earlier mark takes that back.
function setMark(point) {
  const isInside = point.x >= 0 && point.y >= 0 && point.x <= view.width && point.y <= view.height;
  if (!marks.isAsked || !isInside || isBusy) return;
  const near = marks.points.findIndex((each) => Math.hypot(each.x - point.x, each.y - point.y) * view.scale < NEAR_PX);
  if (near >= 0) marks.points.splice(near, 1);
  else marks.points.push(point);
  showMarks();
}

function takeMarkBack() {
  if (!marks.points.length) return false;
  marks.points.pop();
  showMarks();
  return true;
}

function moveCursor(x, y) {
  cursor.isShown = true;
  cursor.x = between(cursor.x + x / view.scale, 0, view.width);
  cursor.y = between(cursor.y + y / view.scale, 0, view.height);
  if (view.zoom > 1) Object.assign(view, { x: cursor.x, y: cursor.y });
  drawView();
}

// As the verdict files have it: in upright pixels of the original picture.
function pixelsOf(point, image) {
  const { width, height } = plan.images[image];
  return [Math.round((10 * point.x * width) / view.width) / 10, Math.round((10 * point.y * height) / view.height) / 10];
}
