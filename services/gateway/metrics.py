from prometheus_client import Counter, Gauge
TRANSCRIBERS_CONNECTED = Gauge("transcribers_connected", "1 while the relay stream to a transcriber is up.", ["target"])
WS_SESSIONS = Gauge("ws_sessions", "Open live sockets.")
WS_RESUMES = Counter("ws_resumes_total", "Sockets opened to resume a session.")
WS_PUSHED_BACK = Counter("ws_pushed_back_total", "Frames whose successor was read late, because the client sends too fast.")
WS_CLOSED = Counter("ws_closed_total", "Live sockets closed by us, by close code.", ["code"])
