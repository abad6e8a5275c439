"""Every page of the site in a browser: quiet, accessible, light, and right on a phone."""

from __future__ import annotations

import re

import pytest
from built_site import LESSON_PAGES, PAGES, scroll_through, turn, violations


@pytest.mark.parametrize("name", [*PAGES, "search"])
def test_page_in_a_browser_is_quiet_accessible_and_fits_a_phone(visit, name):
    tab = visit(name)
    scroll_through(tab)
    assert not tab.problems
    assert len(tab.requests) <= 30, "\n".join(tab.requests)
    assert tab.bytes[0] <= 1.5e6, f"{tab.bytes[0] / 1e6:.2f} MB"
    assert not violations(tab), "in light mode"
    if not turn(tab, "dark"):  # this tab draws nothing any more: another one
        tab = visit(name, scheme="dark")
        scroll_through(tab)
    tab.wait_for_timeout(250)  # the theme fades from one to the other
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", background)[:3])) < 64, background
    assert not violations(tab, structure=False), "in dark mode"
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.wait_for_timeout(600)  # the theme makes what now scrolls reachable by keyboard, a little later
    wider = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wider == 0, f"{wider} px wider than a phone"
    assert not violations(tab, colours=False), "on a phone"
    for narrow in (320, 640):  # a small phone; a desktop at twice the size
        tab.set_viewport_size({"width": narrow, "height": 800})
        wider = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider == 0, f"{wider} px wider than {narrow} px"
    assert not tab.problems


@pytest.mark.parametrize("name", LESSON_PAGES)
def test_live_figures_are_drawn_and_follow_their_controls(visit, name):
    tab = visit(name)
    assert not tab.evaluate("'vegaEmbed' in window && !document.querySelector('.live-figure')")
    scroll_through(tab)
    figure_count = tab.locator(".live-figure").count()
    assert figure_count >= 1, "a lesson has at least one figure to touch"
    assert tab.locator(".live-figure .live-drawing svg").count() == figure_count
    for control in tab.locator(".live-figure input[type=range]").all():
        drawing = control.locator("xpath=ancestor::div[contains(@class, 'live-drawing')]").locator("svg")
        before, drawn = drawing.inner_html(), drawing.element_handle()
        control.focus()
        at_end = control.evaluate("input => Number(input.value) >= Number(input.max)")
        tab.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
        for _ in range(200):
            if drawn.inner_html() != before:
                break
            tab.wait_for_timeout(20)
        assert drawn.inner_html() != before, "the figure did not follow"
    assert not tab.problems


@pytest.mark.parametrize("name", LESSON_PAGES)
def test_live_figure_on_a_phone_stays_inside_its_card(visit, name):
    tab = visit(name, width=390)
    scroll_through(tab)
    for card in tab.locator(".live-figure").all():
        spills = card.evaluate("card => card.scrollWidth - card.clientWidth")
        assert spills <= 1 or card.get_attribute("tabindex") == "0", (
            "what scrolls can be reached with the keyboard"
        )


@pytest.mark.parametrize("name", LESSON_PAGES)
def test_quiz_works_with_the_keyboard_alone(visit, name):
    tab = visit(name)
    forms = tab.locator(".quiz-question").all()
    assert forms, "a lesson ends with a quiz"
    for form in forms:
        options, verdict = form.locator("input"), form.locator(".quiz-verdict")
        right = int(form.get_attribute("data-answer"))
        wrong = (right + 1) % options.count()
        options.first.focus()
        tab.keyboard.press("Tab")
        assert form.locator(".quiz-check").evaluate("button => button === document.activeElement")
        tab.keyboard.press("Enter")
        assert "Choose" in verdict.inner_text()
        for choice, words in ((wrong, "Not quite"), (right, "Right")):
            options.nth(choice).focus()
            tab.keyboard.press("Space")
            tab.keyboard.press("Enter")
            assert words in verdict.inner_text()
        assert form.locator(".quiz-why p").is_visible(), "the reason is shown"
    assert f"{len(forms)} of {len(forms)} right" in tab.locator("[data-quiz-score]").inner_text()
    assert not tab.problems


@pytest.mark.parametrize("name", LESSON_PAGES)
def test_lesson_without_scripts_still_shows_figures_and_answers(visit, name):
    tab = visit(name, scripts=False)
    for picture in tab.locator(".live-picture").all():
        assert picture.is_visible()
    assert not tab.locator(".quiz-check").first.is_visible()
    answer = tab.locator(".quiz-why").first
    answer.locator("summary").click()
    assert answer.locator("p").is_visible()
