"""The evaluation report as one self-contained HTML page.

Here: what the page says and how its figures are written; ``templates/report.html.j2`` holds its
layout. The page asks for nothing outside itself and runs no script. Whatever is missing, not a
number or not finite is left out. Nothing is computed here that ``report.json`` does not hold,
apart from differences of two figures and running means in the plots.
"""

from rlhf.report.page import render_report

__all__ = ["render_report"]
