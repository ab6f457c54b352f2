// What is kept at a bound of the rule, and in words why.

// The slider moves one bound of the run's rule at a time: the others stay as the run has them.
let bound = settings.bounds[0];
let level = bound.value;
let tau = settings.tau;
const isMoved = () => level !== bound.value;
// The score that decides most of what the run keeps stands beside each expression.
const scoreOf = (e) => e[settings.score] ?? null;

const fixed = (value, digits = 2) => (value === null ? "–" : value.toFixed(Math.abs(value) < 100 ? digits : 0));
const thousands = (value) => value.toLocaleString("en-US");
const plural = (count, word, words = `${word}s`) => `${thousands(count)} ${count === 1 ? word : words}`;

const compare = { ">": (a, b) => a > b, ">=": (a, b) => a >= b, "<": (a, b) => a < b, "<=": (a, b) => a <= b };

// Whether the chosen bound judges an expression: of people, and of several masks or none, the table's word stands.
function isBounded(e) {
  if (bound.name === "composed") return Boolean(e.composed);
  // No τ judges a mask alone in its image; of another bound only a rule that keeps all of these can be told here.
  return e.judged && (e.distinctiveness !== null || (bound.name !== "tau" && settings.lone === "keep"));
}

const passes = (e, value = e[bound.column] ?? null) => value === null || compare[bound.comparison](value, level);

// What `refilter` would keep.
function keepAt(value) {
  level = value;
  tau = bound.name === "tau" ? value : settings.tau;
  expressions.forEach((e, id) => {
    // At the run's own bound the table's word stands too: another rule than this one may have written it.
    if (!isMoved() || !isBounded(e)) isKept[id] = e.kept;
    else if (bound.name === "composed") isKept[id] = passes(e);
    else isKept[id] = passes(e) && (e.distinctiveness === null || e.distinctiveness > tau) && e.unmet.every((at) => at === bound.condition);
  });
}

function yieldNow() {
  const found = { kept: 0, masks: 0 };
  for (const verdict of isKept) found.kept += verdict;
  for (const image of images) {
    for (const mask of image.masks) {
      found.masks += mask.expressions.some((e) => isKept[e.id]);
    }
  }
  return found;
}

const signed = (value) => (Math.abs(value) >= 0.005 ? value.toFixed(2) : value.toPrecision(2));
const written = () => `τ\u00a0=\u00a0${+tau.toFixed(3)}`;
// Where a scorer of another package decided, τ is a figure of the configuration and no reason.
const isByAnother = () => !settings.hasTau && tau === settings.tau;
const rivalOf = (e) => (e.rival === null ? null : e.image.masks[e.rival]);

// A short reason for a list, and a sentence for who asks.
function reason(e) {
  if (e.human) return isKept[e.id] ? ["written by a human", "A human wrote it. Human expressions are always kept."] : ["by the run's rule", "A human wrote it, but the run did not keep it."];
  if (isMoved() && bound.name !== "tau" && isBounded(e) && (isKept[e.id] || !passes(e))) {
    const told = `its ${bound.column} of ${fixed(e[bound.column] ?? null, 3)}`;
    const against = `${bound.column} ${bound.comparison} ${level}`;
    return isKept[e.id] ? ["", `At this place of the slider it is kept: ${told} meets ${against}.`] : [`not ${against}`, `At this place of the slider it is not kept: ${told} does not meet ${against}.`];
  }
  if (e.composed) return [`composed: ${e.kind}`, `It was composed from the captions of the masks and their positions. ${isKept[e.id] ? "The run keeps it." : "The run does not keep it: its confidence is too low."}`];
  if (!e.judged) {
    const what = e.targets.length ? "of several masks" : "refers to nothing";
    return [what, `It refers to ${e.targets.length ? "several masks" : "nothing in the image"}, so no threshold applies. The run ${isKept[e.id] ? "kept it" : "did not keep it"}.`];
  }
  return isKept[e.id] ? whyKept(e) : whyRejected(e);
}

// The conditions of the run's rule that it fails, each with the value that fails it.
function unmet(e) {
  return e.unmet.map((at) => {
    const condition = settings.conditions[at];
    const [column] = condition.split(" ");
    const value = column === "log_prob" ? e.draws[0]?.[3] ?? null : e[column];
    return { condition, told: `${column} of ${column === "count" || column === "rank" ? value : fixed(value, 3)}` };
  });
}

// `rival` is null for a mask alone in its image.
function whyKept(e) {
  const [d, rival] = [e.distinctiveness, rivalOf(e)];
  const [failed] = unmet(e);
  if (failed) return ["by the run's rule", `The run kept it, although its ${failed.told} does not meet ${failed.condition}.`];
  if (d === null) return ["alone in its image", "Its mask is the only one in the image, so no filter compared it with another one."];
  if (isByAnother()) return ["by the run's scorer", `A plug-in scorer kept it. Its bound is not known here. Its distinctiveness is ${fixed(d, 3)}.`];
  if (!(d > tau)) return ["by the run's rule", `The run kept it, although ${fixed(d)} is not above ${written()}.`];
  const ahead = rival ? ` It fits ${fixed(d)} times as well as it fits mask ${rival.index}, the strongest other one.` : "";
  return ["", `Its distinctiveness of ${fixed(d, 3)} is above ${written()}.${ahead}`];
}

function whyRejected(e) {
  const [d, rival] = [e.distinctiveness, rivalOf(e)];
  const failed = unmet(e);
  if (isByAnother() && d !== null && !failed.length) return ["by the run's scorer", `A plug-in scorer rejected it. Its bound is not known here. Its distinctiveness is ${fixed(d, 3)}.`];
  const conditions = failed.map(({ told, condition }) => `its ${told} does not meet ${condition}`).join(", and ");
  if (d === null || d > tau) {
    if (failed.length) return [`not ${failed[0].condition}`, `The rule of the run has more conditions: ${conditions}.`];
    if (d === null) return ["alone in its image", "Its mask is the only one in the image, and the run's rule for such masks did not keep it."];
    return ["by the run's rule", `The run rejected it, although ${fixed(d, 3)} is above ${written()}.`];
  }
  const other = rival ? `mask ${rival.index}` : "another mask";
  const besides = failed.length ? ` Also, ${conditions}.` : "";
  if (d < 1) return [`fits ${other} better`, `It fits ${other} better than its own mask: its distinctiveness of ${fixed(d, 3)} is below 1.${besides}`];
  if (d === 1) return [`fits ${other} as well`, `It fits ${other} as well as its own mask, so it is ambiguous.${besides}`];
  const gap = signed(tau - d);
  return [`${gap} below ${written()}`, `It fits its own mask better than ${other}, but its distinctiveness of ${fixed(d, 3)} is ${gap} below ${written()}.${besides}`];
}
