// Light or dark: as the reader chose on these pages before, else as the system says. Runs before anything is painted.
"use strict";
(() => {
  const root = document.documentElement;
  // A page on a disk may have no storage: the choice then lasts as long as the page.
  const stored = (action) => { try { return action(localStorage); } catch { return null; } };
  const chosen = stored((storage) => storage.getItem("pseudoris-theme"));
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  function toggle() {
    const isDark = getComputedStyle(root).colorScheme === "dark"
      || (root.dataset.theme === undefined && matchMedia("(prefers-color-scheme: dark)").matches);
    root.dataset.theme = isDark ? "light" : "dark";
    stored((storage) => storage.setItem("pseudoris-theme", root.dataset.theme));
  }

  document.addEventListener("click", (event) => { if (event.target.closest?.("#theme")) toggle(); });
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest?.("input:not([type=range]), select, dialog");
    if (event.key === "t" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) toggle();
  });
})();
