// What is shown stands in the address after `#`: search, filters, order, the slider, and the open pair. So a view can be sent to others.

// An address may come from anybody: only such an id may stand in a command that a person copies.
const PAIR_ID = /^[0-9a-f]{16}-[0-9+]+-[0-9a-f]{8}$/;
const RANGES = [...document.querySelectorAll("[data-range]")].map((field) => field.dataset.range);

function addressNow() {
  const found = new URLSearchParams();
  if (filters.terms.length) found.set("find", filters.terms.join(" "));
  if (filters.status !== "all") found.set("status", filters.status);
  for (const name of ["pictures", "marks", "verdicts", "source", "kind", "sort"]) {
    const value = byId(name)?.value;
    if (value && value !== "all") found.set(name, value);
  }
  for (const [name, [least, most]] of Object.entries(filters.ranges)) {
    found.set(name, [least, most].map((bound) => (Number.isFinite(bound) ? bound : "")).join(":"));
  }
  if (isMoved()) found.set(bound.name, level);
  if (selection.expression !== null) found.set("pair", expressions[selection.expression].pair);
  return found.toString();
}

let addressDue = null;
function writeAddressSoon() {
  clearTimeout(addressDue);
  // Browsers limit how often an address may change.
  addressDue = setTimeout(() => {
    const now = addressNow();
    if (now === location.hash.slice(1) || (!now && !location.hash.includes("="))) return;
    history.replaceState(null, "", now ? `#${now}` : location.pathname + location.search);
  }, 250);
}

function readRange(name, text) {
  const inputs = document.querySelectorAll(`[data-range="${name}"] input`);
  const bounds = (text ?? ":").split(":");
  inputs.forEach((input, at) => { input.value = bounds[at] && Number.isFinite(Number(bounds[at])) ? bounds[at] : ""; });
}

// An address may come from anybody: each value is one that a control has, or it is left out.
function readAddress() {
  // An anchor, such as #quarantined, is no view.
  if (!location.hash.includes("=")) return;
  const given = new URLSearchParams(location.hash.slice(1));
  byId("find").value = given.get("find") ?? "";
  filters.terms = termsOf(byId("find").value);
  const status = given.get("status");
  setStatus(["kept", "rejected"].includes(status) ? status : "all");
  for (const name of ["pictures", "marks", "verdicts", "source", "kind"].filter(byId)) {
    byId(name).value = given.get(name) ?? "all";
    if (!byId(name).value) byId(name).value = "all";
  }
  setSort(given.get("sort") ?? "");
  for (const name of RANGES) readRange(name, given.get(name));
  chooseBound(settings.bounds.find((each) => given.has(each.name)) ?? settings.bounds[0]);
  const wanted = Number(given.get(bound.name) ?? NaN);
  const value = Number.isFinite(wanted) ? wanted : bound.value;
  slider.value = value;
  keepAt(value);
  readRanges();
  // After the update that is due.
  requestAnimationFrame(() => openPair(given.get("pair")));
}

function openPair(pair) {
  if (pair === null) return;
  const e = expressions.find((each) => each.pair === pair);
  if (e === undefined) {
    const remedy = PAIR_ID.test(pair) ? `. This shows it: pseudoris gallery OUT --image ${pair.split("-")[0]}` : "";
    byId("shown").textContent = `The pair of this address is not on this page, which shows a sample of the run${remedy}`;
    return;
  }
  const order = e.targets[0] ?? e.image.entries.length - 1;
  select(e.image, order, { expression: e.id, isOpening: true, isScrolling: true });
  if (lineOf(e.id) !== null) reveal(e.id);
  else byId("shown").textContent = "The filters of this address hide its expression. Reset them to see it.";
}
