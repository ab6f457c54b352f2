// Controls, and one update a frame whatever moved.

const NUM_BINS = 56;
const slider = byId("tau");
const quarantinedRows = [...document.querySelectorAll("#quarantined tbody tr")].map((element) => [element, element.textContent.toLowerCase()]);
let ends = null;

const quantile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];

// The slider spans what the scores that its bound judges span, outliers aside, and always the run's own bound.
function setUpSlider() {
  const scores = expressions.filter(isBounded).map((e) => e[bound.column] ?? null).filter((d) => d !== null).sort((a, b) => a - b);
  const low = scores.length ? Math.min(quantile(scores, 0.01), bound.value) : bound.value;
  const high = scores.length ? Math.max(quantile(scores, 0.99), bound.value) : bound.value;
  ends = [Math.max(0, Math.floor(low * 20 - 1) / 20), Math.ceil(high * 20 + 1) / 20];
  Object.assign(slider, { min: ends[0], max: ends[1], step: "any" });
  slider.value = bound.value;
  byId("tau-reset").textContent = `back to ${+bound.value.toPrecision(6)}`;
  const bins = new Array(NUM_BINS).fill(0);
  for (const d of scores) {
    const at = Math.floor((NUM_BINS * (d - ends[0])) / (ends[1] - ends[0]));
    if (at >= 0 && at < NUM_BINS) bins[at] += 1;
  }
  // Square roots: a peak of equal scores would flatten all others.
  const top = Math.sqrt(Math.max(1, ...bins));
  const width = 100 / NUM_BINS;
  const path = bins.map((n, at) => `M${at * width} 24v${(-23 * Math.sqrt(n)) / top}h${width * 0.82}v${(23 * Math.sqrt(n)) / top}z`).join("");
  for (const each of byId("spread").children) each.setAttribute("d", path);
}

function showYield() {
  const { kept, masks } = yieldNow();
  const share = (part, whole) => (whole ? `${Math.round((100 * part) / whole)} %` : "–");
  const perMask = numMasks ? (kept / numMasks).toFixed(2) : "–";
  byId("yield").replaceChildren(
    make("b", "", thousands(kept)), ` kept of ${thousands(expressions.length)} (${share(kept, expressions.length)}) · `,
    make("b", "", perMask), " expressions per mask · ", make("b", "", share(masks, numMasks)), ` of masks have one (${plural(images.length, "image")} on this page)`,
  );
  const text = String(+level.toFixed(3));
  byId("tau-value").textContent = text;
  slider.setAttribute("aria-valuetext", `${text}, ${thousands(kept)} kept`);
  byId("tau-reset").hidden = !isMoved();
  const part = (100 * (level - ends[0])) / (ends[1] - ends[0] || 1);
  byId("spread").lastElementChild.style.clipPath = bound.comparison.startsWith(">") ? `inset(0 0 0 ${part}%)` : `inset(0 ${100 - part}% 0 0)`;
}

function showCount(found) {
  const isOpen = filters.terms.length > 0 || isNarrowed() || filters.pictures !== "all";
  const all = `${thousands(images.length)} of ${byId("shown").dataset.all} images shown`;
  const some = `${plural(found.expressions, "expression")} in ${thousands(found.images)} of ${plural(images.length, "image")} match`;
  byId("shown").textContent = isOpen ? some : all;
  let numQuarantined = 0;
  for (const [element, words] of quarantinedRows) {
    element.hidden = !filters.terms.every((term) => words.includes(term));
    numQuarantined += !element.hidden;
  }
  const isListed = numQuarantined > 0 && ["all", "quarantined"].includes(filters.pictures) && !isNarrowed();
  if (byId("quarantined")) byId("quarantined").hidden = !isListed;
  byId("nobody").hidden = found.images > 0 || isListed || !isOpen;
}

function update() {
  const found = applyFilters();
  sortImages();
  writeAddressSoon();
  showYield();
  showCount(found);
  renderCards();
  if (selection.image === null || !selection.image.isShown) {
    const first = images.find((image) => image.isShown && image.entries.length) ?? images.find((image) => image.isShown);
    if (first) return select(first);
  }
  if (selection.image) renderInspector();
}

let isDue = false;
function updateSoon() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => { isDue = false; update(); });
}

function readRanges() {
  filters.ranges = {};
  for (const field of document.querySelectorAll("[data-range]")) {
    const [least, most] = [...field.querySelectorAll("input")].map((input) => input.valueAsNumber);
    if (!Number.isNaN(least) || !Number.isNaN(most)) {
      filters.ranges[field.dataset.range] = [Number.isNaN(least) ? -Infinity : least, Number.isNaN(most) ? Infinity : most];
    }
  }
  filters.pictures = byId("pictures").value;
  for (const name of ["marks", "source", "kind"]) filters[name] = byId(name).value;
  // Only where an audit was given.
  filters.verdicts = byId("verdicts")?.value ?? "all";
  const count = Object.keys(filters.ranges).length + (filters.pictures !== "all") + ["marks", "source", "kind"].filter((name) => filters[name] !== "all").length + (filters.verdicts !== "all") + (sorting.score !== null);
  byId("active").textContent = count ? String(count) : "";
  updateSoon();
}

function setStatus(status) {
  filters.status = status;
  for (const button of document.querySelectorAll("[data-status]")) {
    button.setAttribute("aria-pressed", String(button.dataset.status === status));
  }
  updateSoon();
}

// Another bound begins where the run has it.
function chooseBound(chosen) {
  bound = chosen;
  if (byId("bound")) byId("bound").value = bound.name;
  setUpSlider();
  keepAt(bound.value);
}

function setLevel(value) {
  keepAt(value);
  updateSoon();
}

function showAll() {
  byId("find").value = "";
  filters.terms = [];
  byId("filters").reset();
  setStatus("all");
  readRanges();
}

const termsOf = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);

function listenToControls() {
  byId("find").addEventListener("input", (event) => {
    filters.terms = termsOf(event.target.value);
    updateSoon();
  });
  slider.addEventListener("input", () => {
    const value = slider.valueAsNumber;
    // Within a pixel or two of the run's own bound it is meant.
    const isNear = Math.abs(value - bound.value) < (ends[1] - ends[0]) / 150;
    setLevel(isNear ? bound.value : Number(value.toFixed(3)));
  });
  byId("tau-reset").addEventListener("click", () => {
    slider.value = bound.value;
    setLevel(bound.value);
    slider.focus();
  });
  byId("bound")?.addEventListener("change", (event) => {
    chooseBound(settings.bounds.find((each) => each.name === event.target.value));
    updateSoon();
  });
  for (const button of document.querySelectorAll("[data-status]")) {
    button.addEventListener("click", () => setStatus(button.dataset.status));
  }
  byId("more").addEventListener("click", () => {
    byId("filters").hidden = !byId("filters").hidden;
    byId("more").setAttribute("aria-expanded", String(!byId("filters").hidden));
  });
  byId("filters").addEventListener("input", () => { setSort(byId("sort").value); readRanges(); });
  byId("filters").addEventListener("reset", () => requestAnimationFrame(() => { setSort(""); readRanges(); }));
  byId("export-marks").addEventListener("click", exportMarks);
  addEventListener("hashchange", readAddress);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("nobody-reset").addEventListener("click", showAll);
  byId("show-masks").addEventListener("click", (event) => {
    const isOn = document.body.classList.toggle("without-masks") === false;
    event.currentTarget.setAttribute("aria-pressed", String(isOn));
  });
  byId("help-button").addEventListener("click", () => byId("help").showModal());
  byId("single-keys").checked = document.documentElement.dataset.keys !== "off";
  document.addEventListener("keydown", onKey);
}

function fitLayout() {
  const aspects = images.map((image) => {
    const { width, height } = image.card.querySelector(".overlay").viewBox.baseVal;
    return width / (height || 1);
  }).sort((a, b) => a - b);
  const aspect = aspects.length ? Math.min(1.6, Math.max(0.8, quantile(aspects, 0.5))) : 4 / 3;
  document.documentElement.style.setProperty("--aspect", String(aspect));
  const bar = document.querySelector(".bar");
  new ResizeObserver(() => {
    document.documentElement.style.setProperty("--bar", `${bar.offsetHeight}px`);
  }).observe(bar);
}

chooseBound(settings.bounds[0]);
fitLayout();
listenToCards();
listenToInspector();
listenToControls();
offerSorts();
["source", "kind"].forEach(offerChoices);
sortExpressions();
showMarks();
update();
readAddress();
