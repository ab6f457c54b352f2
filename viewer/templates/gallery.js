
"use strict";
(() => {
  // Pointing at a mask shows its entry and the other way round; an entry that a person opened keeps its mask lit.
  const find = (card, kind, mask) => card.querySelector(`${kind}[data-mask="${mask}"]`);

  function light(card, mask, rival) {
    for (const lit of card.querySelectorAll(".is-active, .is-rival")) lit.classList.remove("is-active", "is-rival");
    const path = mask === null ? null : find(card, ".mask", mask);
    const picture = card.querySelector(".picture");
    picture.classList.toggle("is-focused", path !== null);
    if (mask !== null) find(card, ".entry", mask)?.classList.add("is-active");
    if (path === null) return;
    path.classList.add("is-active");
    if (rival) find(card, ".mask", rival)?.classList.add("is-rival");
    const veil = picture.querySelector(".veil");
    veil.setAttribute("d", veil.dataset.frame + path.getAttribute("d"));
  }

  const pinned = (card) => card.dataset.pinned ?? null;

  function pin(card, entry, isOpen) {
    if (isOpen) card.dataset.pinned = entry.dataset.mask;
    else delete card.dataset.pinned;
  }

  for (const card of document.querySelectorAll(".card")) {
    const point = (event) => {
      const target = event.target.closest(".mask, .entry");
      if (target === null) return light(card, pinned(card));
      const row = event.target.closest("li");
      light(card, target.dataset.mask, row?.querySelector("[data-rival]")?.dataset.rival);
    };
    card.addEventListener("pointerover", point);
    card.addEventListener("pointerleave", () => light(card, pinned(card)));
    card.addEventListener("focusin", point);
    card.addEventListener("focusout", () => light(card, pinned(card)));
    card.addEventListener("click", (event) => {
      const summary = event.target.closest("summary");
      if (summary !== null) return pin(card, summary.parentElement, !summary.parentElement.open);
      const path = event.target.closest(".mask");
      if (path === null) return;
      const entry = find(card, ".entry", path.dataset.mask);
      const isNew = card.dataset.pinned !== path.dataset.mask;
      entry.open = isNew;
      pin(card, entry, isNew);
      light(card, pinned(card));
      const list = card.querySelector(".masks");
      requestAnimationFrame(() => { list.scrollTop = entry.offsetTop; });
    });
  }

  const cards = [...document.querySelectorAll(".card")];
  const words = cards.map((card) => [...card.querySelectorAll("h2, .text")].map((e) => e.textContent).join("\n").toLowerCase());
  const shown = document.getElementById("shown");
  const everything = shown.textContent;
  document.getElementById("find").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    cards.forEach((card, i) => { card.hidden = !words[i].includes(wanted); });
    const found = cards.filter((card) => !card.hidden).length;
    shown.textContent = wanted ? `${found} of ${cards.length} images match` : everything;
  });
  const toggle = (id, name) => document.getElementById(id).addEventListener("change", (event) => {
    document.body.classList.toggle(name, !event.target.checked);
  });
  toggle("show-masks", "without-masks");
  toggle("show-rejected", "without-rejected");
})();

