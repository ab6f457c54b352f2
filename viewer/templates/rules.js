// What is kept at a τ, and in words why.

let tau = settings.tau;

const fixed = (value, digits = 2) => (value === null ? "–" : value.toFixed(Math.abs(value) < 100 ? digits : 0));
const thousands = (value) => value.toLocaleString("en-US");
const plural = (count, word, words = `${word}s`) => `${thousands(count)} ${count === 1 ? word : words}`;

function keepAt(value) {
  tau = value;
  // At the run's own τ the table's word counts: another rule than the threshold may have written it.
  const isRuns = tau === settings.tau;
  expressions.forEach((e, id) => {
    isKept[id] = isRuns || e.human || e.distinctiveness === null ? e.kept : e.distinctiveness > tau;
  });
}

function yieldNow() {
  let kept = 0;
  let masks = 0;
  for (const verdict of isKept) kept += verdict;
  for (const image of images) {
    for (const mask of image.masks) masks += mask.expressions.some((e) => isKept[e.id]);
  }
  return { kept, masks };
}

const signed = (value) => (Math.abs(value) >= 0.005 ? value.toFixed(2) : value.toPrecision(2));

// A short reason for a list, and a sentence for who asks. `rival` is null for a mask alone.
function reason(e) {
  const d = e.distinctiveness;
  const rival = e.rival === null ? null : e.image.masks[e.rival];
  const short = `τ\u00a0=\u00a0${+tau.toFixed(3)}`;
  if (isKept[e.id]) {
    if (e.human) return ["written by a person", "A person wrote it, and what people write is kept."];
    if (d === null) return ["alone in its image", "Its mask is the only one in the image: there is nothing to confuse it with."];
    if (!(d > tau)) return ["by the run's rule", `The run kept it, though ${fixed(d)} is not above ${short}.`];
    const ahead = rival ? ` It fits ${fixed(d)} times as well as it fits mask ${rival.index}, the strongest other one.` : "";
    return ["", `Its distinctiveness of ${fixed(d, 3)} is above ${short}.${ahead}`];
  }
  if (d === null) return ["not scored", "It has no distinctiveness, and the run did not keep it."];
  const other = rival ? `mask ${rival.index}` : "another mask";
  if (d > tau) return ["by the run's rule", `The run rejected it, though ${fixed(d, 3)} is above ${short}.`];
  if (d < 1) return [`fits ${other} better`, `It fits ${other} better than its own: a distinctiveness of ${fixed(d, 3)} is below 1.`];
  if (d === 1) return [`fits ${other} as well`, `It fits ${other} as well as its own, so that nobody could tell which is meant.`];
  const gap = signed(tau - d);
  return [`${gap} short of ${short}`, `It is ahead of ${other}, but its ${fixed(d, 3)} is ${gap} short of ${short}.`];
}
