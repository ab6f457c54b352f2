// Which question is next. Pairs by position; after a verdict that is not right the other texts of that mask, until one is; then the images.

const ASKS_ON = new Set(["several", "untrue", "cannot_say"]);
const roots = plan.pairs.filter((pair) => pair.follows === undefined);
const followUps = new Map();
for (const pair of plan.pairs) {
  if (pair.follows === undefined) continue;
  if (!followUps.has(pair.follows)) followUps.set(pair.follows, []);
  followUps.get(pair.follows).push(pair);
}
const pairOf = new Map(plan.pairs.map((pair) => [pair.id, pair]));

function nextFollowUp(root, { verdicts, skipped }) {
  if (!ASKS_ON.has(verdicts.get(root.id))) return null;
  for (const pair of followUps.get(root.id) ?? []) {
    if (verdicts.get(pair.id) === "right") return null;
    if (!verdicts.has(pair.id) && !skipped.has(pair.id)) return pair;
  }
  return null;
}

// The next question as { pair } or { image }; null at the end. `state`: verdicts, missed, skipped.
function nextQuestion(state) {
  const isOpen = (id) => !state.skipped.has(id);
  for (const root of roots) {
    const pair = state.verdicts.has(root.id) ? nextFollowUp(root, state) : isOpen(root.id) ? root : null;
    if (pair !== null) return { pair };
  }
  const image = plan.missed.find((each) => !state.missed.has(each) && isOpen(each));
  return image === undefined ? null : { image };
}

// What is answered, of all.
function progressOf(state) {
  const pairs = roots.filter((root) => state.verdicts.has(root.id)).length;
  const images = plan.missed.filter((image) => state.missed.has(image)).length;
  return { pairs, images };
}
