"""Ids of answers prove the tenant and the version they belong to."""

from gateway.serving.ids import cache_salt, mint, version_of

SECRET = b"s" * 32


def test_an_id_tells_its_version_to_its_own_tenant() -> None:
    response_id = mint("chatcmpl-", SECRET, "acme", 1234)
    assert response_id.startswith("chatcmpl-")
    assert version_of(response_id, SECRET, "acme") == 1234


def test_another_tenant_or_secret_or_a_changed_id_proves_nothing() -> None:
    response_id = mint("cmpl-", SECRET, "acme", 7)
    flipped = response_id[:-1] + ("0" if response_id[-1] != "0" else "1")
    assert version_of(response_id, SECRET, "other") is None
    assert version_of(response_id, b"t" * 32, "acme") is None
    assert version_of(flipped, SECRET, "acme") is None


def test_strings_that_are_no_ids_prove_nothing() -> None:
    for text in ("", "chatcmpl-", "chatcmpl-xyz", "resp_" + "g" * 48, "é" * 48):
        assert version_of(text, SECRET, "acme") is None


def test_each_tenant_has_a_salt_of_its_own_that_nobody_can_guess() -> None:
    salts = {cache_salt(SECRET, "acme"), cache_salt(SECRET, "other"), cache_salt(b"t", "acme")}
    assert len(salts) == 3
    assert cache_salt(SECRET, "acme") in salts
    assert all(len(salt) == 32 and int(salt, 16) for salt in salts)
