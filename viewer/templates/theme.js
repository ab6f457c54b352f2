// Light or dark, and keys of one character: as the reader chose on these pages before, else as the system says, and on. Runs before anything is painted.
"use strict";
(() => {
  const root = document.documentElement;
  // A page on a disk may have no storage: the choice then lasts as long as the page.
  const stored = (action) => { try { return action(localStorage); } catch { return null; } };
  const chosen = stored((storage) => storage.getItem("pseudoris-theme"));
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  // WCAG 2.1.4: who speaks to the machine must be able to turn keys of one character off.
  if (stored((storage) => storage.getItem("pseudoris-keys")) === "off") root.dataset.keys = "off";

  // The choice on another page, which the browser may pass on only after this one has begun.
  addEventListener("storage", (event) => {
    if (event.key !== "pseudoris-keys") return;
    root.dataset.keys = event.newValue ?? "on";
    const box = document.getElementById("single-keys");
    if (box) box.checked = root.dataset.keys !== "off";
  });

  function toggle() {
    const isDark = getComputedStyle(root).colorScheme === "dark"
      || (root.dataset.theme === undefined && matchMedia("(prefers-color-scheme: dark)").matches);
    root.dataset.theme = isDark ? "light" : "dark";
    stored((storage) => storage.setItem("pseudoris-theme", root.dataset.theme));
  }

  document.addEventListener("click", (event) => { if (event.target.closest?.("#theme")) toggle(); });
  document.addEventListener("change", (event) => {
    if (event.target.id !== "single-keys") return;
    root.dataset.keys = event.target.checked ? "on" : "off";
    stored((storage) => storage.setItem("pseudoris-keys", root.dataset.keys));
  });
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest?.("input:not([type=range]), select, textarea, dialog");
    if (event.key === "t" && root.dataset.keys !== "off" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) toggle();
  });
})();
