"""Answers of the routes of the team screens without a store, for tests of the screens alone.

``FakeTeam`` remembers what was paused, decided and exported, so that a test can ask it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from urllib.parse import parse_qsl, urlsplit

from labeling_ui.render import direction, render

NOW = 1_795_000_000_000
HOUR = 3_600_000
PEOPLE = ("Ada Lovelace", "Grace Hopper", "Emmy Noether", "Karen Jones", "Wang Zhenyi", "Hypatia")
PROMPTS = (
    "Explain to a ten-year-old why the sky is blue, in at most four sentences.",
    "Write a Python function that merges two sorted lists.",
    "My landlord keeps my deposit although the flat was clean. What can I do?",
    "Summarise the plot of Hamlet in one paragraph.",
    "اكتب قصيدة قصيرة عن البحر",
)
ANSWERS = (
    "Sunlight is made of all colours. When it meets the air, blue is scattered in every "
    "direction much more than red, so blue reaches your eyes from the whole sky.",
    "The sky is blue because it reflects the sea.",
    "Because of *Rayleigh scattering*: its strength grows with the inverse fourth power of the "
    "wavelength.",
    "I don't know.",
)


def figure(value, low, high):
    return {"value": value, "low": low, "high": high}


def decision(ranks, action="rank", **rest):
    given = {
        "action": action,
        "ranks": list(ranks),
        "others_worse": False,
        "flags": None,
        "strengths": None,
        "reason": "",
        "comment": "",
    }
    return given | rest


SHELL = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Team</title></head>
<body><main id="place"></main><script type="module" src="/boot.js"></script></body></html>"""
BOOT = "import { start } from '/page/main.js'; start(document.getElementById('place'));"
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
TYPES = {
    "js": "text/javascript",
    "css": "text/css",
    "html": "text/html",
    "json": "application/json",
}


def rendered(text):
    """A text as the server gives it."""
    return {"text": text, "html": render(text), "dir": direction(text)}


class FakeTeam:
    """The work, review and admin routes over made-up data.

    With ``refusal`` set, everything that changes something is refused with that line.
    """

    def __init__(self, names=PEOPLE, prompts=PROMPTS, answers=ANSWERS, comments=("",)):
        self.names, self.prompts, self.answers = list(names), list(prompts), list(answers)
        self.comments = list(comments)
        self.paused_people = {"a4"}
        self.paused_tasks = set()
        self.decided = []
        self.refusal = None
        self.exports = []
        self.mine_total = 65

    def get(self, path, query):
        """Answer a GET; None when the path is not one of ours."""
        routes = {
            "/api/mine": self.mine,
            "/api/review/tasks": self.review_tasks,
            "/api/admin/figures": self.figures,
            "/api/admin/tasks": self.tasks,
            "/api/admin/audit": self.audit,
        }
        return routes[path](query) if path in routes else None

    def post(self, path, body):
        """Answer a POST; None when the path is not one of ours."""
        routes = {
            "/api/review/open": self.review_open,
            "/api/review/decide": self.review_decide,
            "/api/admin/pause-task": self.pause_task,
            "/api/admin/pause-person": self.pause_person,
            "/api/admin/export-preview": self.export_preview,
        }
        return routes[path](body) if path in routes else None

    # ---- work

    def mine(self, query):
        before = int(query.get("before", self.mine_total + 1))
        numbers = list(range(before - 1, 0, -1))
        return {"rankings": [self.own(n) for n in numbers[:30]], "more": len(numbers) > 30}

    def own(self, n):
        prompt = self.prompts[n % len(self.prompts)]
        comment = self.comments[n % len(self.comments)]
        given = decision([2, 1, 2, None], others_worse=True, comment=comment)
        if n % 7 == 3:
            given = decision([None] * 4, "skip", reason="too_long", comment=comment)
        elif n % 7 == 5:
            given = decision([None] * 4, "cannot_judge", reason="no_knowledge", comment=comment)
        elif n % 7 == 6:
            given = decision([1, 2, None, None], "all_bad", comment=comment)
            given["flags"] = [["wrong", "harmful"], [], ["wrong"], []]
        return {
            "ranking": n,
            "assignment": 1000 + n,
            "prompt": [prompt] if n % 4 else ["What is a fjord?", "A drowned valley.", prompt],
            "action": given["action"],
            "decision": given,
            "revision": 2 if n % 9 == 1 else 1,
            "submitted_ms": NOW - (self.mine_total - n) * 47 * 60_000,
            "late": n % 11 == 2,
            "kind": "training" if n < 4 else "ranking",
            "notes": self.notes(n),
        }

    def notes(self, n):
        if n % 13 != 12:
            return []
        return [self.comments[n % len(self.comments)] or "B names a source that doesn't exist."]

    # ---- review

    def review_tasks(self, _query):
        shares = (-0.82, -0.33, 0.0, 0.21, 0.67)
        return {
            "tasks": [
                {
                    "task": 40 + n,
                    "prompt_excerpt": self.prompts[n % len(self.prompts)],
                    "people": 2 + n % 2,
                    "agreement": share,
                    "reviewed": (40 + n) in {done["task"] for done in self.decided},
                }
                for n, share in enumerate(shares)
            ]
        }

    def review_open(self, body):
        comment = self.comments[body["task"] % len(self.comments)]
        given = [
            decision([1, 3, 2, 4], comment=comment),
            decision([4, 1, 3, 2], flags=[["wrong"], [], [], ["fails_instruction"]]),
            decision([1, 2, 2, None], others_worse=True),
        ]
        return {
            "task": body["task"],
            "prompt": [{"role": "user"} | rendered(self.prompts[body["task"] % len(self.prompts)])],
            "completions": [rendered(text) for text in self.answers],
            "rankings": [
                {"ranking": 900 + n, "who": f"Person {n + 1}", "decision": one}
                for n, one in enumerate(given)
            ],
            "reviews": [
                {
                    "review": number,
                    "verdict": done["verdict"],
                    "note": done["note"],
                    "created_ms": NOW,
                }
                for number, done in enumerate(self.decided, start=1)
                if done["task"] == body["task"]
            ],
        }

    def review_decide(self, body):
        self.decided.append(body)
        return {"stored": True}

    # ---- admin

    def figures(self, _query):
        return {
            "now_ms": NOW,
            "coverage": [
                {"wanted": 2, "done": 0, "tasks": 412},
                {"wanted": 2, "done": 1, "tasks": 96},
                {"wanted": 2, "done": 2, "tasks": 1204},
                {"wanted": 3, "done": 2, "tasks": 31},
                {"wanted": 3, "done": 3, "tasks": 57},
            ],
            "tasks": 1800,
            "open": 539,
            "done": 1261,
            "paused": 4,
            "surplus": 6,
            "leases": [
                {
                    "pseudonym": f"a{n + 1}",
                    "task": 300 + n,
                    "since_ms": NOW - 7 * 60_000 * (n + 1),
                    "until_ms": NOW + 4 * 60_000 * (n + 2),
                }
                for n in range(3)
            ],
            "per_hour": [0] * 8 + [3, 18, 41, 52, 49, 12, 38, 57, 61, 44, 21, 5, 0, 0, 2, 9],
            "per_day": [0, 0, 180, 240, 310, 290, 305, 20, 0, 260, 330, 344, 371, 412],
            "median_active_s": 48.7,
            "agreement": {
                "random": self.agreement(0.02, 214),
                "all": self.agreement(0.0, 1292),
            },
            "people": [self.person(n) for n in range(len(self.names))],
            "position_bias": [
                {"k": 2, "counts": [61, 58], "chi_square": 0.0756, "df": 1, "p": 0.783},
                {"k": 4, "counts": [402, 331, 318, 301], "chi_square": 17.6, "df": 3, "p": 0.0005},
            ],
            "rates": {
                "rankings": 2660,
                "skip": 0.041,
                "cannot_judge": 0.012,
                "all_bad": 0.027,
                "reasons": {"too_long": 52, "language": 31, "unpleasant": 11, "other": 15},
                "flags": {"wrong": 301, "fails_instruction": 122, "harmful": 9, "cut_off": 0},
            },
            "eta_hours": 26.4,
            "too_fast": [
                {"ranking": 2101 + n, "pseudonym": "a4", "seconds": 1.4 + n / 3} for n in range(9)
            ],
        }

    @staticmethod
    def agreement(shift, prompts):
        return {
            "alpha": figure(0.47 + shift, 0.41, 0.55),
            "strict": figure(0.731 + shift, 0.702, 0.768),
            "tau": figure(0.44 + shift, 0.38, 0.51),
            "prompts": prompts,
        }

    def person(self, n):
        pseudonym = f"a{n + 1}"
        new = n == 5
        return {
            "pseudonym": pseudonym,
            "name": self.names[n],
            "state": "paused" if pseudonym in self.paused_people else "active",
            "rankings": 0 if new else 1234 - 190 * n,
            "skips": 0 if new else 12 + n,
            "cannot_judge": n,
            "all_bad": 2 * n,
            "flags": 0 if new else 90 - 14 * n,
            "ties_share": None if new else 0.11,
            "median_active_s": None if new else (6.2 if n == 3 else 44.0 + 5 * n),
            "too_fast": 9 if n == 3 else 0,
            "agreement_with_others": (
                figure(None, None, None)
                if new
                else figure(0.52 if n == 3 else 0.74, 0.46 if n == 3 else 0.70, 0.78)
            ),
            "gold": {"passed": 0 if new else 18 - 3 * n, "seen": 0 if new else 20},
            "rank_first_share": [0.25] * 4,
        }

    def tasks(self, query):
        state = query.get("state", "open")
        numbers = range(int(query.get("before", 120)) - 1, 0, -1)
        rows = [
            {
                "task": n,
                "prompt_excerpt": self.prompts[n % len(self.prompts)],
                "completions": len(self.answers),
                "pool": "random" if n % 5 == 0 else "normal",
                "overlap": 2,
                "done": 2 if state == "done" else n % 2,
                "priority": round(n / 7 % 1, 3),
                "paused": n in self.paused_tasks,
            }
            for n in numbers
            if (n in self.paused_tasks) == (state == "paused")
        ]
        return {"tasks": rows[:50], "more": len(rows) > 50}

    def audit(self, query):
        before = int(query.get("before", 300))
        kinds = ("login", "claim", "export", "pause_person", "set_role", "login_failed")
        return {
            "entries": [
                {
                    "id": n,
                    "at_ms": NOW - (300 - n) * 11 * 60_000,
                    "actor": f"a{1 + n % 4}" if n % 6 else None,
                    "kind": kinds[n % len(kinds)],
                    "data": {"format": "rankings", "rows": 2660} if n % 6 == 2 else {},
                }
                for n in range(before - 1, max(0, before - 101), -1)
            ],
            "more": before > 101,
        }

    def pause_task(self, body):
        (self.paused_tasks.add if body["paused"] else self.paused_tasks.discard)(body["task"])
        return {"stored": True}

    def pause_person(self, body):
        change = self.paused_people.add if body["paused"] else self.paused_people.discard
        change(body["pseudonym"])
        return {"stored": True}

    def export_rows(self):
        """The whole export, as JSON lines."""
        rows = [
            {"prompt": self.prompts[n % len(self.prompts)], "completions": self.answers}
            | {"ranks": [1, 2, 2, None], "annotator": f"a{1 + n % 4}"}
            for n in range(12)
        ]
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()

    def export_preview(self, body):
        self.exports.append(body)
        raw = self.export_rows()
        lines = raw.decode().splitlines()
        return {
            "rows": len(lines),
            "sha256": hashlib.sha256(raw).hexdigest(),
            "sample": [json.loads(line) for line in lines[:5]],
            "pairs": 48,
            "ties": 12,
        }


@contextmanager
def serve(team, role="admin"):
    """Serve our own modules and the answers of ``team`` on a free port; gives the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(team, role))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def handler(team, role):
    """A request handler class over ``team``."""
    settings = {"flags": ["wrong", "harmful"], "strengths": False, "guidelines_version": 0}
    me = {"name": team.names[0], "role": role, "local": False, "settings": settings}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            if parts.path == "/api/me":
                self.answer("json", json.dumps(me))
            elif parts.path == "/api/admin/export":
                self.answer("json", team.export_rows().decode(), "attachment; filename=rows.jsonl")
            elif parts.path.startswith("/api/"):
                self.as_json(team.get(parts.path, dict(parse_qsl(parts.query))))
            else:
                self.answer(*page_file(parts.path))

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if team.refusal and self.path != "/api/review/open":
                self.answer("json", json.dumps({"error": team.refusal}), status=422)
            else:
                self.as_json(team.post(self.path, json.loads(body)))

        def as_json(self, found):
            missing = found is None
            text = json.dumps({"error": "no such page"} if missing else found)
            self.answer("json", text, status=404 if missing else 200)

        def answer(self, kind, text, disposition="inline", status=200):
            self.send_response(status)
            self.send_header("Content-Type", f"{TYPES[kind]}; charset=utf-8")
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("Content-Disposition", disposition)
            self.end_headers()
            self.wfile.write(text.encode("utf-8", "replace"))

        def log_message(self, *args):
            """Say nothing."""

    return Handler


def page_file(path):
    """Kind and text of the shell or of a module in ``static``."""
    files = {"/": ("html", SHELL), "/boot.js": ("js", BOOT), "/favicon.ico": ("html", "")}
    if path in files:
        return files[path]
    name = path.removeprefix("/page/")
    text = (resources.files("labeling_ui") / "static" / name).read_text("utf-8")
    return name.rpartition(".")[2], text
