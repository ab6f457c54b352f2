// What this rater has answered, what is asked now, and the way of an answer to the storage.

let storage = null;
let current = null;
// Until the picture stands, and while an answer is on its way, nothing can be answered.
let isBusy = true;
// False where a question could not be fetched whole: nobody must judge without its outline.
let isAsked = false;
let shownAt = 0;
const state = { verdicts: new Map(), missed: new Set(), skipped: new Set(), history: [] };

async function begin(rater) {
  storage = openStorage(rater);
  // A page of an earlier version may have asked more.
  for (const line of storage.open()) if (line.image !== undefined || pairOf.has(line.pair)) keep(line);
  await ask(nextQuestion(state));
}

function keep(line) {
  if (line.line === "verdict") state.verdicts.set(line.pair, line.verdict);
  else state.missed.add(line.image);
  state.history.push(line.line === "verdict" ? { pair: pairOf.get(line.pair) } : { image: line.image });
}

// Runs one action at a time; what fails is told, and the question stays.
async function alone(action) {
  if (isBusy) return;
  setBusy(true);
  // Before the action: what it tells stays until the next one.
  tell("");
  try {
    await action();
  } catch (error) {
    tell(error.message);
    setBusy(!isAsked || !byId("absent").hidden);
  }
}

const stamps = () => ({
  comment: byId("comment").value.trim(),
  seconds: Math.round((performance.now() - shownAt) / 100) / 10,
  utc: new Date().toISOString(),
});

async function record(line) {
  storage.record(line);
  if (line.line !== "undo") keep(line);
  await ask(nextQuestion(state));
}

function giveVerdict(verdict) {
  if (current.pair === undefined) return;
  alone(() => record({ line: "verdict", pair: current.pair.id, verdict, ...stamps() }));
}

function giveMissed() {
  alone(() => {
    const clicks = marks.points.map((point) => pixelsOf(point, current.image));
    return record({ line: "missed", image: current.image, clicks, ...stamps() });
  });
}

function undo() {
  if (isBusy || takeMarkBack()) return;
  const last = state.history.at(-1);
  if (last === undefined) return;
  alone(async () => {
    const about = last.pair ? { pair: last.pair.id } : { image: last.image };
    storage.record({ line: "undo", ...about, utc: new Date().toISOString() });
    state.history.pop();
    if (last.pair) state.verdicts.delete(last.pair.id);
    else state.missed.delete(last.image);
    await ask(last);
  });
}

function skip() {
  state.skipped.add(current.pair?.id ?? current.image);
  ask(nextQuestion(state)).catch((error) => tell(error.message));
}
