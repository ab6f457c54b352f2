// The picture with its outlines, zoomed and moved by the view box, and the marks of clicked objects; first, how elements are made.

// Elements are made, never parsed: text of strangers only ever becomes text.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
const plan = JSON.parse(byId("plan").textContent);

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function show(id) {
  for (const each of ["start", "judge", "finished"]) byId(each).hidden = each !== id;
}

function tell(message) {
  byId("notice").hidden = !message;
  byId("notice").textContent = message;
}

// The picture is drawn in the units of its outlines.

const stage = byId("stage");
const PAD_PX = 10;
const MAX_ZOOM = 14;
// An outline smaller than this on the screen gets a ring around it.
const SMALL_PX = 26;
const view = { width: 1, height: 1, zoom: 1, x: 0, y: 0, scale: 1, left: 0, top: 0 };
const between = (value, low, high) => (low > high ? (low + high) / 2 : Math.min(high, Math.max(low, value)));

function drawView() {
  const box = stage.getBoundingClientRect();
  if (!box.width || !box.height) return;
  const fit = Math.min((box.width - 2 * PAD_PX) / view.width, (box.height - 2 * PAD_PX) / view.height);
  view.scale = fit * view.zoom;
  const [width, height, pad] = [box.width / view.scale, box.height / view.scale, PAD_PX / view.scale];
  view.x = between(view.x, width / 2 - pad, view.width - width / 2 + pad);
  view.y = between(view.y, height / 2 - pad, view.height - height / 2 + pad);
  [view.left, view.top] = [view.x - width / 2, view.y - height / 2];
  stage.setAttribute("viewBox", `${view.left} ${view.top} ${width} ${height}`);
  byId("zoom-button").setAttribute("aria-pressed", String(view.zoom > 1));
  drawLocator();
  drawMarks();
}

function drawLocator() {
  const outlines = byId("outlines");
  const box = outlines.getBBox();
  const size = Math.max(box.width, box.height) * view.scale;
  const isSmall = outlines.childElementCount > 0 && !outlines.classList.contains("is-many") && size < SMALL_PX;
  byId("locator").setAttribute("r", isSmall ? 30 / view.scale : 0);
  byId("locator").setAttribute("cx", box.x + box.width / 2);
  byId("locator").setAttribute("cy", box.y + box.height / 2);
}

function pointAt(event) {
  const box = stage.getBoundingClientRect();
  return { x: view.left + (event.clientX - box.left) / view.scale, y: view.top + (event.clientY - box.top) / view.scale };
}

// Zooms by a factor; `point` stays where it is on the screen.
function zoomAt(point, factor) {
  const zoom = between(view.zoom * factor, 1, MAX_ZOOM);
  const share = view.zoom / zoom;
  view.x = point.x + (view.x - point.x) * share;
  view.y = point.y + (view.y - point.y) * share;
  view.zoom = zoom;
  drawView();
}

function moveView(x, y) {
  view.x += x / view.scale;
  view.y += y / view.scale;
  drawView();
}

function resetView() {
  Object.assign(view, { zoom: 1, x: view.width / 2, y: view.height / 2 });
  drawView();
}

// To the outlined object with as much around it, or to the middle of what is shown; and back.
function toggleZoom() {
  if (view.zoom > 1) return resetView();
  const outlines = byId("outlines");
  const box = outlines.childElementCount && !outlines.classList.contains("is-many") ? outlines.getBBox() : null;
  if (box === null) return zoomAt(cursor.isShown ? cursor : { x: view.x, y: view.y }, 2.5);
  const wanted = Math.min(view.width / Math.max(box.width, 1), view.height / Math.max(box.height, 1)) / 2;
  Object.assign(view, { zoom: between(wanted, 1.6, MAX_ZOOM), x: box.x + box.width / 2, y: box.y + box.height / 2 });
  drawView();
}

// Resolves to whether the picture can be shown.
function showPicture(image) {
  const { frameWidth, frameHeight } = plan.images[image];
  const address = `pictures/${image}.jpg`;
  const picture = byId("picture");
  if (picture.getAttribute("href") === address) return Promise.resolve(true);
  Object.assign(view, { width: frameWidth, height: frameHeight });
  for (const [name, value] of [["width", frameWidth], ["height", frameHeight]]) picture.setAttribute(name, value);
  resetView();
  return new Promise((resolve) => {
    picture.onload = () => resolve(true);
    picture.onerror = () => { picture.removeAttribute("href"); resolve(false); };
    picture.setAttribute("href", address);
  });
}

function showOutlines(paths, { isMany = false } = {}) {
  const outlines = byId("outlines");
  outlines.classList.toggle("is-many", isMany);
  const of = (kind) => paths.map((d, number) => draw("path", { d, class: `${kind} c${number % plan.colours}` }));
  outlines.replaceChildren(...of("halo"), ...of("line"));
  drawLocator();
}

function toggleOutlines() {
  const isBare = stage.classList.toggle("is-bare");
  byId("outline-button").setAttribute("aria-pressed", String(!isBare));
}

// One finger or the mouse: a tap, or a move of what is zoomed. Two fingers zoom.
const pointers = new Map();
let hasMoved = false;

function gap() {
  const [a, b] = [...pointers.values()];
  return { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2, size: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) };
}

function onPointerMove(event) {
  const last = pointers.get(event.pointerId);
  if (last === undefined) return;
  const before = pointers.size === 2 ? gap() : null;
  const now = { clientX: event.clientX, clientY: event.clientY, startX: last.startX, startY: last.startY };
  // A finger is never quite still.
  if (Math.hypot(now.clientX - last.startX, now.clientY - last.startY) > 8) hasMoved = true;
  if (!hasMoved && before === null) return;
  pointers.set(event.pointerId, now);
  if (before === null) return moveView(last.clientX - now.clientX, last.clientY - now.clientY);
  const after = gap();
  zoomAt(pointAt(after), after.size / (before.size || 1));
  moveView(before.clientX - after.clientX, before.clientY - after.clientY);
}

function listenToStage() {
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    if (!pointers.size) hasMoved = false;
    else hasMoved = true;
    pointers.set(event.pointerId, { clientX: event.clientX, clientY: event.clientY, startX: event.clientX, startY: event.clientY });
  });
  stage.addEventListener("pointermove", onPointerMove);
  stage.addEventListener("pointerup", (event) => {
    if (pointers.delete(event.pointerId) && !hasMoved) setMark(pointAt(event));
  });
  stage.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(pointAt(event), Math.exp(-event.deltaY / (event.deltaMode ? 20 : 400)));
  }, { passive: false });
  byId("zoom-button").addEventListener("click", toggleZoom);
  byId("outline-button").addEventListener("click", toggleOutlines);
  new ResizeObserver(drawView).observe(stage);
}

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
