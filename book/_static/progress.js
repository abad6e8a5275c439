/* What the reader has done, kept by this browser under one key and nowhere else:

     {"version": 1, "lessons": {"04": {"done": "2026-11-22", "quiz": "2026-11-22"}}}

   A lesson is known by its number, which never changes, so that a new version of the book finds it again. Where the
   browser keeps nothing, everything of this file stays hidden (`data-storage`, set by early.js). */
(() => {
  "use strict";

  const KEY = "mmscratch.progress";
  const NUMBER = /^\d\d$/;
  const DAY = /^\d{4}-\d\d-\d\d$/;
  const today = () => new Date().toISOString().slice(0, 10);

  /* The lessons of anything that claims to be progress: what is not understood is left out. */
  function lessonsOf(value) {
    const lessons = {};
    if (!value || typeof value !== "object" || typeof value.lessons !== "object") return lessons;
    for (const [number, marks] of Object.entries(value.lessons ?? {})) {
      if (!NUMBER.test(number) || !marks || typeof marks !== "object") continue;
      const kept = Object.entries(marks).filter(([key, day]) => ["done", "quiz"].includes(key) && DAY.test(day));
      if (kept.length) lessons[number] = Object.fromEntries(kept);
    }
    return lessons;
  }

  function read() {
    try {
      return lessonsOf(JSON.parse(localStorage.getItem(KEY)));
    } catch {
      return {}; // somebody else's value, or half of one
    }
  }

  const asText = (lessons) => JSON.stringify({ version: 1, lessons }, null, 1);

  function write(lessons) {
    try {
      localStorage.setItem(KEY, asText(lessons));
    } catch (error) {
      say(`This browser keeps no more: ${error.message}`);
    }
    show();
  }

  function mark(number, ...keys) {
    const lessons = read();
    const days = Object.fromEntries(keys.map((key) => [key, today()]));
    lessons[number] = { ...days, ...lessons[number] }; // the first day stays
    write(lessons);
  }

  function unmark(number) {
    const lessons = read();
    delete lessons[number]?.done;
    if (!Object.keys(lessons[number] ?? {}).length) delete lessons[number];
    write(lessons);
  }

  function say(words) {
    const line = document.querySelector("[data-progress-said]");
    if (line) line.textContent = words;
  }

  /* Showing -------------------------------------------------------------------------------------------------- */

  /* Number, name and address of every written lesson, in order: the links of the sidebar. */
  function written() {
    return [...document.querySelectorAll(".bd-sidebar-primary .bd-links a")]
      .map((link) => ({ link, parts: link.firstChild?.textContent.trim().match(/^(\d\d) · (.+)/) }))
      .filter(({ parts }) => parts)
      .map(({ link, parts }) => ({ link, number: parts[1], title: parts[2] }));
  }

  function tick(element, on) {
    element.classList.toggle("is-done", on);
    const mark = element.querySelector(":scope .done-mark");
    if (on && !mark) {
      const words = document.createElement("span");
      words.className = "done-mark visually-hidden";
      words.textContent = ", done";
      (element.querySelector("a") ?? element).append(words);
    } else if (!on) mark?.remove();
  }

  function showLesson(lessons, all) {
    const box = document.querySelector("[data-lesson-end]");
    if (!box) return;
    const number = box.dataset.lessonEnd;
    const { done, quiz } = lessons[number] ?? {};
    const button = box.querySelector("button");
    button.setAttribute("aria-pressed", String(Boolean(done)));
    const next = all.find((each) => each.number > number && !lessons[each.number]?.done)
      ?? all.find((each) => each.number !== number && !lessons[each.number]?.done);
    const link = box.querySelector("[data-next]");
    link.hidden = !(done && next);
    if (next) {
      link.href = next.link.href;
      link.textContent = `Next: ${next.number} · ${next.title}`;
    }
    document.querySelectorAll(".lesson-objectives li").forEach((item) => item.classList.toggle("is-done", Boolean(quiz)));
    const state = document.querySelector("[data-lesson-state]");
    state.textContent = [quiz && `Quiz passed on ${quiz}.`, done && `Marked as done on ${done}.`].filter(Boolean).join(" ")
      || "Pass the quiz at the end to tick these.";
  }

  function showLanding(lessons, all) {
    const panel = document.querySelector("[data-progress]");
    if (!panel) return;
    const cards = [...document.querySelectorAll(".lesson-card[data-lesson]")];
    cards.forEach((card) => tick(card, Boolean(lessons[card.dataset.lesson]?.done)));
    const done = (some) => some.filter((card) => lessons[card.dataset.lesson]?.done).length;
    panel.querySelector("progress").value = done(cards);
    panel.querySelector("[data-count]").textContent = done(cards);
    document.querySelectorAll("[data-part-count]").forEach((count) => {
      count.textContent = done([...count.closest(".part").querySelectorAll(".lesson-card[data-lesson]")]);
    });
    const next = all.find((each) => !lessons[each.number]?.done);
    const link = panel.querySelector("[data-next]");
    link.hidden = !next;
    if (next) {
      link.href = next.link.href;
      link.textContent = `${done(cards) ? "Continue with" : "Start with"} ${next.number} · ${next.title}`;
    }
    panel.querySelector("[data-clear]").disabled = !Object.keys(lessons).length;
  }

  function show() {
    const lessons = read();
    const all = written();
    all.forEach(({ link, number }) => tick(link.closest("li"), Boolean(lessons[number]?.done)));
    showLesson(lessons, all);
    showLanding(lessons, all);
  }

  /* Doing ---------------------------------------------------------------------------------------------------- */

  function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([asText(read())], { type: "application/json" }));
    link.download = "multimodal-from-scratch-progress.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    say("Your progress is in the file that was just saved.");
  }

  /* A file adds to what is here; of two days the earlier one stays. */
  async function load(file) {
    let found = {};
    try {
      found = lessonsOf(JSON.parse(await file.text()));
    } catch { /* said below */ }
    const numbers = Object.keys(found);
    if (!numbers.length) {
      say(`${file.name} holds no progress of this book. Nothing was changed.`);
      return;
    }
    const lessons = read();
    for (const number of numbers) {
      const both = [lessons[number] ?? {}, found[number]];
      lessons[number] = Object.fromEntries(["done", "quiz"]
        .map((key) => [key, both.map((marks) => marks[key]).filter(Boolean).sort()[0]])
        .filter(([, day]) => day));
    }
    write(lessons);
    say(`Read marks of ${numbers.length} ${numbers.length === 1 ? "lesson" : "lessons"} from ${file.name}.`);
  }

  function listen() {
    const box = document.querySelector("[data-lesson-end]");
    if (box) {
      const number = box.dataset.lessonEnd;
      box.querySelector("button").addEventListener("click", (event) => {
        if (event.currentTarget.getAttribute("aria-pressed") === "true") unmark(number);
        else mark(number, "done");
      });
      document.addEventListener("quiz:passed", () => mark(number, "quiz", "done"));
    }
    const panel = document.querySelector("[data-progress]");
    if (panel) {
      panel.querySelector("[data-save]").addEventListener("click", save);
      const chooser = panel.querySelector("input[type=file]");
      panel.querySelector("[data-load]").addEventListener("click", () => chooser.click());
      chooser.addEventListener("change", () => {
        if (chooser.files.length) load(chooser.files[0]);
        chooser.value = "";
      });
      panel.querySelector("[data-clear]").addEventListener("click", () => {
        if (!confirm("Forget what is marked as done, in this browser? A saved file keeps it.")) return;
        write({});
        say("Forgotten.");
      });
    }
    window.addEventListener("storage", (event) => {
      if (event.key === KEY || event.key === null) show();
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    if (document.documentElement.dataset.storage === "blocked") return;
    listen();
    show();
  });
})();
