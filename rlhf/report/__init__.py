"""The evaluation report and the reward card, each as one self-contained HTML page.

Here: what a page says and how its figures are written; ``templates`` holds the layouts. A page
asks for nothing outside itself and runs no script. Whatever is missing, not a number or not finite
is left out. Nothing is computed here that ``report.json`` or ``reward_card.json`` does not hold,
apart from differences of two figures, running means in the plots and the order of samples.
"""

from rlhf.report.page import render_report
from rlhf.report.reward_card import render_reward_card

__all__ = ["render_report", "render_reward_card"]
