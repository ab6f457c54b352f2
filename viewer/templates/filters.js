// Which expressions and images are shown: by words, status and ranges.

const filters = { terms: [], status: "all", pictures: "all", marks: "all", verdicts: "all", source: "all", kind: "all", ranges: {} };

const inRange = (value, [least, most]) => value !== null && value >= least && value <= most;

function isNarrowed() {
  return filters.status !== "all" || filters.marks !== "all" || filters.verdicts !== "all" || filters.source !== "all" || filters.kind !== "all" || Object.keys(filters.ranges).length > 0;
}

function matches(e, isNamed) {
  if (filters.status !== "all" && (filters.status === "kept") !== Boolean(isKept[e.id])) return false;
  if (filters.marks !== "all" && (filters.marks === "marked") !== isMarked(e)) return false;
  if (filters.verdicts !== "all" && !e.verdicts.some(([, verdict]) => filters.verdicts === "any" || filters.verdicts === verdict)) return false;
  for (const name of ["source", "kind"]) if (filters[name] !== "all" && e[name] !== filters[name]) return false;
  for (const name in filters.ranges) if (!inRange(e[name] ?? null, filters.ranges[name])) return false;
  return isNamed || filters.terms.every((term) => e.lower.includes(term));
}

function suitsPictures(image) {
  switch (filters.pictures) {
    case "masks": return image.masks.length > 0;
    case "silent": return image.masks.some((mask) => !mask.expressions.some((e) => isKept[e.id]));
    case "empty": return image.masks.length === 0;
    case "quarantined": return false;
    default: return true;
  }
}

// Sets `isMatch` and each image's `isShown`; returns how many of both there are.
function applyFilters() {
  const found = { expressions: 0, images: 0 };
  for (const image of images) {
    const isNamed = filters.terms.every((term) => image.lower.includes(term));
    const suits = suitsPictures(image);
    let count = 0;
    for (const e of image.expressions) {
      const verdict = suits && matches(e, isNamed);
      isMatch[e.id] = verdict;
      count += verdict;
    }
    image.isShown = suits && (count > 0 || (isNamed && !isNarrowed()));
    found.expressions += count;
    found.images += image.isShown;
  }
  return found;
}
