/* The quiz that closes a lesson. Right or wrong is said in words and announced; the reason follows in the same place.
   A quiz whose questions are all answered right sends `quiz:passed`, which progress.js hears. */
(() => {
  "use strict";

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
    const passed = solved === forms.length;
    quiz.querySelector("[data-quiz-score]").textContent =
      `${solved} of ${forms.length} right.${passed ? " You passed this quiz." : ""}`;
    if (passed) quiz.dispatchEvent(new CustomEvent("quiz:passed", { bubbles: true }));
  }

  function prepare(form, quiz) {
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

  document.addEventListener("DOMContentLoaded", () => {
    for (const quiz of document.querySelectorAll("[data-quiz]")) {
      quiz.querySelectorAll("form").forEach((form) => prepare(form, quiz));
    }
  });
})();
