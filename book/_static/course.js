/* What a page of the book does beyond showing itself: live figures, the quiz, and a few labels that the theme leaves
   out. No library, no build step; a page reads without it. */
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
    target.className = "live-drawing";
    figure.prepend(target);
    const options = { mode: "vega-lite", renderer: "svg", actions: false, tooltip: { theme: "light" } };
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

  /* Quiz. Right or wrong is said in words and announced; the reason follows in the same place. */

  function check(form, quiz) {
    const chosen = form.querySelector("input:checked");
    const verdict = form.querySelector(".quiz-verdict");
    if (!chosen) {
      verdict.textContent = "Choose an answer first.";
      return;
    }
    const right = chosen.value === form.dataset.answer;
    form.classList.toggle("is-right", right);
    form.classList.toggle("is-wrong", !right);
    const why = form.querySelector(".quiz-why");
    verdict.textContent = right ? "Right." : "Not quite. Try again, or open the answer.";
    why.hidden = false;
    why.open = right;
    const forms = [...quiz.querySelectorAll("form")];
    const solved = forms.filter((each) => each.classList.contains("is-right")).length;
    quiz.querySelector("[data-quiz-score]").textContent = `${solved} of ${forms.length} right.`;
    if (solved === forms.length) quiz.dispatchEvent(new CustomEvent("quiz:passed", { bubbles: true }));
  }

  function prepareQuizzes() {
    for (const quiz of document.querySelectorAll("[data-quiz]")) {
      for (const form of quiz.querySelectorAll("form")) {
        form.querySelector(".quiz-check").hidden = false;
        form.querySelector(".quiz-why").hidden = true;
        form.addEventListener("submit", (event) => {
          event.preventDefault();
          check(form, quiz);
        });
        form.addEventListener("change", () => {
          form.classList.remove("is-right", "is-wrong");
          form.querySelector(".quiz-verdict").textContent = "";
        });
      }
    }
  }

  /* The theme labels its search button otherwise than it reads, and leaves the logo outside every landmark. */
  function mendTheme() {
    document.querySelectorAll(".search-button-field, .search-button__button").forEach((button) => {
      if (button.textContent.trim()) button.removeAttribute("aria-label");
    });
    document.querySelectorAll("div.cell_output pre, .highlight pre, .math, .bd-article .pst-scrollable-table-container")
      .forEach(scrollable);
  }

  function start() {
    mendTheme();
    prepareQuizzes();
    watchFigures();
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
