// Marks: a reader's own notes on pairs, kept in this browser by the pair's id. They are no verdicts, and no figure counts them.

// All files on a disk are one origin, and runs of other images or masks have the same ids.
const MARKS = `pseudoris-marks/${settings.pairs}`;
const LONGEST_NOTE = 500;
let pairMarks = {};
// A page on a disk may have no storage: marks then last as long as the page.
try { pairMarks = JSON.parse(localStorage.getItem(MARKS)) ?? {}; } catch { /* nothing was stored */ }

const isMarked = (e) => Object.hasOwn(pairMarks, e.pair);
const noteOf = (e) => String(pairMarks[e.pair] ?? "");

// `note` is null to take a mark away.
function mark(e, note) {
  // Another window may have marked in the meantime.
  try { pairMarks = JSON.parse(localStorage.getItem(MARKS)) ?? pairMarks; } catch { /* as above */ }
  if (note === null) delete pairMarks[e.pair];
  else pairMarks[e.pair] = note.slice(0, LONGEST_NOTE);
  try { localStorage.setItem(MARKS, JSON.stringify(pairMarks)); } catch { /* as above */ }
  showMarks();
}

function showMarks() {
  const number = expressions.filter(isMarked).length;
  byId("export-marks").hidden = number === 0;
  byId("export-marks").textContent = `Export ${plural(number, "mark")}`;
}

// A line of JSON for each marked pair of this page.
function exportMarks() {
  const lines = expressions.filter(isMarked).map((e) => JSON.stringify({
    pair: e.pair, image: e.image.name, masks: e.targets.map((order) => e.image.masks[order].index), text: e.text,
    kept: Boolean(isKept[e.id]), note: noteOf(e),
  }));
  const url = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "application/jsonl" }));
  const link = make("a", "");
  link.href = url;
  link.download = "marks.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// In the detail of an open expression: the mark, its note, and the pair's address.
function markTools(e) {
  const button = make("button", "quiet", isMarked(e) ? "★ marked" : "☆ mark");
  button.type = "button";
  button.setAttribute("aria-pressed", String(isMarked(e)));
  button.addEventListener("click", () => toggleMark(e));
  const link = make("a", "", "link to this pair");
  link.href = `#pair=${encodeURIComponent(e.pair)}`;
  if (!isMarked(e)) return make("p", "marking", button, link);
  const note = make("input", "");
  Object.assign(note, { type: "text", maxLength: LONGEST_NOTE, placeholder: "a note", value: noteOf(e) });
  note.setAttribute("aria-label", "note on this pair");
  note.addEventListener("change", () => mark(e, note.value));
  return make("p", "marking", button, note, link);
}

function toggleMark(e) {
  mark(e, isMarked(e) ? null : "");
  // With a filter by marks it may no longer match: what is open stays until something else moves.
  renderExpressions();
  lineOf(e.id)?.focus({ preventScroll: true });
}
