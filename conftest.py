"""How pytest runs the book. It stands at the root because it serves both `tests/` and `notebooks/`.

nbval makes each code cell a test. Here its cells get the numbers that a reader sees, a failing one says why
in one line, and a cell that promises an exception must raise one. A kernel gets a second chance to start.
"""

from __future__ import annotations

import os
import queue
import re
import time

import nbval.kernel
import pytest
from nbval.plugin import IPyNbCell

from mmscratch.kit.lesson import environment

for _name, _value in environment().items():  # before torch is imported; the notebooks' kernels inherit it
    os.environ.setdefault(_name, _value)

_failures: list[str] = []
_start_kernel = nbval.kernel.start_new_kernel


def _start_kernel_twice(*args, **options):
    """A kernel's ports are chosen before it binds them: beside other kernels, one may be gone by then."""
    try:
        return _start_kernel(*args, **options)
    except RuntimeError:  # it died, or did not answer in time
        return _start_kernel(*args, **options)


nbval.kernel.start_new_kernel = _start_kernel_twice
_get_message = nbval.kernel.RunningKernel.get_message


def _get_message_from_the_living(self, stream, timeout=None):
    """A kernel that was killed in mid-cell says nothing more; nbval would wait for it as for a slow one."""
    end = float("inf") if timeout is None else time.monotonic() + timeout
    while True:
        try:
            return _get_message(self, stream, timeout=max(0.0, min(2.0, end - time.monotonic())))
        except queue.Empty:
            if not self.is_alive():
                raise RuntimeError("this cell ended the kernel (out of memory?)") from None
            if time.monotonic() >= end:
                raise


nbval.kernel.RunningKernel.get_message = _get_message_from_the_living


def _reason(item: IPyNbCell, error: BaseException) -> str:
    """`AssertionError: accuracy 0.31 < 0.9`, or what nbval says where the cell raised nothing."""
    for output in item.test_outputs or ():
        if output["output_type"] == "error" and not item.options["check_exception"]:
            return f"{output['ename']}: {' '.join(output['evalue'].split())}"
    return str(error)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    report = yield
    report.result = [
        # nbval counts from 0, the notebook that a reader sees from 1
        item.from_parent(
            collector,
            name=f"Cell {item.cell_num + 1}",
            cell_num=item.cell_num + 1,
            cell=item.cell,
            options=item.options,
        )
        if isinstance(item, IPyNbCell)
        else item
        for item in report.result or ()
    ]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    if isinstance(item, IPyNbCell):
        item.output_timeout = 60  # seconds: nbval's 5 are short where two cores run everything
    result = yield
    if isinstance(item, IPyNbCell) and item.options["check_exception"]:
        if not any(output["output_type"] == "error" for output in item.test_outputs):
            item.raise_cell_error("tagged raises-exception, but nothing was raised")
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if isinstance(item, IPyNbCell) and report.when == "call" and report.failed:
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(report.longrepr))
        report.longrepr = f"{_reason(item, call.excinfo.value)}\n\n{text}"
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.failed and re.search(r"\.ipynb::Cell \d+$", report.nodeid):
        _failures.append(f"{report.nodeid} {str(report.longrepr).splitlines()[0]}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _failures:  # in full: pytest's own summary cuts lines at the width of the terminal
        terminalreporter.section("failing cells")
        for line in _failures:
            terminalreporter.write_line(line)
