"""The JSON routes of the pages, one module a screen: thin, and without Gradio."""

from labeling_ui.api import admin, annotate, review, work
from labeling_ui.api.wire import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = (
    *annotate.ENDPOINTS,
    *work.ENDPOINTS,
    *review.ENDPOINTS,
    *admin.ENDPOINTS,
)
