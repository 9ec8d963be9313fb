"""A speech API that can be away: a real server, for tests that are about something else than what is heard."""

from __future__ import annotations

from services.transcriber.tests.scripted_server import Answer, Request, ScriptedServer, answer

HEALED = "The speech interface is back"


class SpeechApi(ScriptedServer):
    """What it hears is a sentence that tells how long the audio was."""

    def __init__(self, *, away: bool = False) -> None:
        super().__init__()
        self.away = away
        self.pause_s = 0.0
        self.otherwise = self.hear

    @property
    def settings(self) -> dict[str, str]:
        """Environment of a transcriber that asks it, and does not wait long after it was away."""
        return {
            "OPENAI_API_KEY": "scripted", "OPENAI_BASE_URL": self.url, "SPEECH_RETRY_MIN_S": "0.1",
            "BREAKER_OPEN_S": "1", "BREAKER_RAMP_S": "0", "HEAL_HOLD_S": "0",
        }  # fmt: skip

    def hear(self, request: Request) -> Answer:
        """Answer as long as it is not away."""
        if self.away:
            return answer({"error": {"message": "scripted"}}, 503)
        return answer({"text": f"{HEALED}, heard {len(request.file)} bytes."}, pause_s=self.pause_s)
