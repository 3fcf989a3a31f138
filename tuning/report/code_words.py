"""Shows on pages, as code, what sentences have between backticks: commands and fields."""

import re

from markupsafe import Markup, escape


def coded(text: object) -> Markup:
    """The text with `such words` in code elements, everything else as it is."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))
