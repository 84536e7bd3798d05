"""Posting to a real HTTP server on loopback, which may do anything."""

import time
from pathlib import Path

import pytest

from cleanup_pipeline.alerts.webhook import NotAcknowledgedError, post
from cleanup_pipeline_tests.alerts.receiver import SECRET, Webhook, webhook

SELF_SIGNED = Path(__file__).parent / "self_signed.pem"


def refused(url: str, within_s: float = 10.0) -> str:
    """What is told where the webhook does not acknowledge: never its address."""
    with pytest.raises(NotAcknowledgedError) as caught:
        post(url, "a text", "an event", within_s)
    told = repr(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)
    assert SECRET not in told
    return str(caught.value)


def test_a_text_arrives_with_its_event_id(hook: Webhook) -> None:
    post(hook.url, "ein Täxt", "run_failed/2026-11-24/1", 10.0)
    assert hook.received == [{"text": "ein Täxt"}]
    assert hook.event_ids == ["run_failed/2026-11-24/1"]


@pytest.mark.parametrize("status", [201, 204])
def test_whatever_is_2xx_acknowledges(hook: Webhook, status: int) -> None:
    hook.status = status
    post(hook.url, "a text", "an event", 10.0)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_whatever_is_not_does_not(hook: Webhook, status: int) -> None:
    hook.status = status
    assert refused(hook.url) == f"the webhook answered {status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_told(hook: Webhook, status: int) -> None:
    with webhook() as elsewhere:
        hook.status, hook.location = status, elsewhere.url
        assert refused(hook.url) == f"the webhook answered {status}, which is not followed: give its final address"
        assert elsewhere.received == []
    assert len(hook.received) == 1


@pytest.mark.parametrize("behaviour", ["hangs", "drips"])
def test_a_slow_webhook_is_given_up_in_time(hook: Webhook, behaviour: str) -> None:
    setattr(hook, behaviour, True)
    began = time.monotonic()
    said = refused(hook.url, within_s=0.5)
    assert time.monotonic() - began < 5
    assert said.startswith("the webhook did not answer")


def test_a_dead_one_is_told_without_its_address() -> None:
    with webhook() as gone:
        url = gone.url
    assert refused(url) == "the webhook can't be reached (ConnectionRefusedError)"
    assert "can't be reached" in refused(f"http://no such host/{SECRET}")
    assert "can't be reached" in refused(f"http://u:{SECRET}@127.0.0.1/")


@pytest.mark.parametrize("url", [f"ftp://127.0.0.1/{SECRET}", f"file:///{SECRET}", SECRET, f"https://[{SECRET}]/"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    assert refused(url) == "the webhook's address is no http or https URL"


def test_a_certificate_that_is_not_trusted_is_told_and_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook(SELF_SIGNED) as hook:
        assert refused(hook.url) == "the webhook's certificate is not trusted"
        assert hook.received == []
        monkeypatch.setenv("SSL_CERT_FILE", str(SELF_SIGNED))
        post(hook.url, "a text", "an event", 10.0)
        assert hook.texts == ["a text"]
