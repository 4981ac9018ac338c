"""The ranking page: a Gradio app on which people put K completions in order, best first."""
