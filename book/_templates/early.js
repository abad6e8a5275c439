(() => {
  // before the page is drawn: light or dark, and whether this browser lets a page remember anything
  const html = document.documentElement;
  try {
    localStorage.setItem("mmscratch.probe", "1");
    localStorage.removeItem("mmscratch.probe");
  } catch {
    html.dataset.storage = "blocked";
    const memory = new Map();
    Object.defineProperty(window, "localStorage", { value: {
      getItem: (key) => memory.get(key) ?? null,
      setItem: (key, value) => memory.set(key, String(value)),
      removeItem: (key) => memory.delete(key),
    } });
  }
  const mode = localStorage.getItem("mode") || "auto";
  html.dataset.mode = mode;
  html.dataset.theme = mode === "auto" ? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light") : mode;
})();
