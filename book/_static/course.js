/* What a page of the book does beyond showing itself: live figures, and what the theme leaves to mend. The quiz and the
   reader's progress are in quiz.js and progress.js. No library, no build step; a page reads without any of it. */
(() => {
  "use strict";

  const here = document.currentScript.src;

  /* Live figures. The page shows a picture; when it comes near the window the script that draws the same figure is
     fetched from this site, once, and the figure takes the picture's place. */

  const script = new URL("vega.js", here).href;
  let library = null;

  function load() {
    library ??= new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = script;
      element.onload = () => resolve(window.vegaEmbed);
      element.onerror = () => reject(new Error(`cannot load ${script}`));
      document.head.append(element);
    });
    return library;
  }

  /* A picture knows how wide the figure is with its axes and legend. What does not fit is taken from the width of
     the plot itself, so that a figure fits a phone and pointer positions stay right, which scaling would spoil. */
  function fitted(spec, picture, room) {
    const natural = Number(picture.getAttribute("width"));
    if (typeof spec.width !== "number" || !natural || natural <= room) return spec;
    return { ...spec, width: Math.max(120, spec.width - (natural - room)) };
  }

  async function draw(figure) {
    const picture = figure.querySelector(".live-picture");
    const spec = JSON.parse(figure.querySelector(".live-spec").textContent);
    delete spec.$schema; // it names the version that JupyterLab draws; the one here is newer and warns
    const embed = await load();
    const padding = 40; // of the card, and a label that may stand out at the right
    const room = figure.parentElement.clientWidth - padding;
    const target = document.createElement("div");
    target.className = "live-drawing"; // out of the flow until the picture goes, so that nothing jumps
    figure.prepend(target);
    // `ast` interprets a figure's formulas instead of compiling them, which the page's security policy forbids
    const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, tooltip: { theme: "light" } };
    await embed(target, fitted(spec, picture, room), options);
    figure.classList.add("is-drawn");
    scrollable(figure);
  }

  function watchFigures() {
    const figures = document.querySelectorAll(".live-figure");
    if (!figures.length || !("IntersectionObserver" in window)) return;
    const observer = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        observer.unobserve(target);
        draw(target).catch((error) => console.error(error));
      }
    }, { rootMargin: "600px 0px" });
    figures.forEach((figure) => observer.observe(figure));
  }

  /* Whatever scrolls sideways can be reached and scrolled with the keyboard. */
  function scrollable(element) {
    if (element.scrollWidth > element.clientWidth + 1) element.tabIndex = 0;
  }

  function findScrollable() {
    document.querySelectorAll("div.cell_output pre, .highlight pre, div.math, .pst-scrollable-table-container, .text_html")
      .forEach(scrollable);
  }

  /* The theme labels its search button otherwise than it reads. */
  function mendTheme() {
    document.querySelectorAll(".search-button-field, .search-button__button").forEach((button) => {
      if (button.textContent.trim()) button.removeAttribute("aria-label");
    });
    document.querySelector("#search-results")?.previousElementSibling?.querySelector?.("input[type=search]")?.focus();
  }

  document.addEventListener("DOMContentLoaded", () => {
    mendTheme();
    findScrollable();
    let waiting;
    window.addEventListener("resize", () => {
      clearTimeout(waiting);
      waiting = setTimeout(findScrollable, 200);
    });
  });
  window.addEventListener("load", watchFigures); // the page itself comes first
})();
