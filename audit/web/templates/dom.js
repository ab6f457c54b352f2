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
