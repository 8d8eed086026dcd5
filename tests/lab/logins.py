"""Who may log in to the secured brokers, and with what.

`USER` may do everything. `LIMITED` may log in, but nothing whose name begins with `FORBIDDEN` is open to it
(in Redis: it may not write).
"""

USER = "alice"
PASSWORD = "pw-of-alice-5b1e"
LIMITED = "limited"
LIMITED_PASSWORD = "pw-of-limited-77c0"
TOKEN = "token-of-the-lab-9f3d"
FORBIDDEN = "forbidden"
