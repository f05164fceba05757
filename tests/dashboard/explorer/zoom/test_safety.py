"""Who is answered, what answers allow a browser, and that nothing a stranger sends ends the server."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe import InputError
from probe.dashboard.explorer.safety import LARGEST_REQUEST, Access, access

MAP = "record=pooled.zarr&layer=0&head=0"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


def alive(client):
    return client.get(f"/_zoom/cell?{MAP}&q=5&k=3").status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/head", "/_zoom/deepzoom.js", f"/_zoom/about?{MAP}", "/nowhere", "/_zoom/cell"]
)
def test_every_answer_carries_the_headers(client, path):
    headers = client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert policy["object-src"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy["script-src"]
    assert "sha256-" in policy["script-src"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8050", "127.0.0.1.evil.example", "0.0.0.0"])
def test_another_name_for_this_machine_is_not_answered(client, host):
    answer = client.get(f"/_zoom/cell?{MAP}&q=5&k=3", headers={"Host": host})
    assert answer.status_code == 421
    assert "weight" not in answer.text


@pytest.mark.parametrize("host", ["localhost:8050", "127.0.0.1", "[::1]:8050"])
def test_this_machine_is_answered(client, host):
    assert client.get(f"/_zoom/cell?{MAP}&q=5&k=3", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
def test_a_callback_from_another_site_is_refused(client, headers):
    assert client.post("/_dash-update-component", json={}, headers=headers).status_code == 403


def test_other_addresses_take_a_word_and_a_token():
    with pytest.raises(InputError, match=r"'0\.0\.0\.0' can be reached from other machines: give --expose"):
        access("0.0.0.0")
    with pytest.raises(InputError, match="token: got 3 characters, expected at least 16"):
        access("0.0.0.0", expose=True, token="abc")
    made = access("192.168.1.2", expose=True)
    assert made.hosts is None
    assert len(made.token) >= 32
    assert made.token != access("192.168.1.2", expose=True).token
    assert access("127.0.0.1").token is None
    assert set(access("127.0.0.1").hosts) == set(Access().hosts)
    assert "127.0.0.2" in access("127.0.0.2").hosts


def test_without_the_token_nothing_is_shown(records):
    from probe.dashboard.explorer.app import build

    client = build(records, access("10.1.2.3", expose=True, token="0123456789abcdef")).server.test_client()
    for path in ("/", f"/_zoom/about?{MAP}", "/_dash-layout", "/assets/probe.js", "/?token=0123456789abcdeg"):
        assert client.get(path).status_code == 401
    entered = client.get("/head?record=a&token=0123456789abcdef")
    assert entered.status_code == 302
    assert entered.headers["Location"] == "/head?record=a"
    cookie = entered.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert client.get("/_dash-layout").status_code == 200


@pytest.mark.parametrize(
    "record",
    [
        "../pooled.zarr",
        "..%2f..%2fetc%2fpasswd",
        "/etc",
        "pooled.zarr/..",
        "pooled.zarr/qkv",
        "%00",
        "x" * 400,
        "C:\\",
        "",
    ],
)
def test_only_records_of_the_folder_can_be_named(client, record):
    answer = client.get(f"/_zoom/about?record={record}&layer=0&head=0")
    assert answer.status_code == 400
    assert "\n" not in answer.json["error"]
    assert alive(client)


@pytest.mark.parametrize(
    "path", ["/assets/../safety.py", "/assets/%2e%2e/safety.py", "/_dash-component-suites/dash/../../x"]
)
def test_no_file_beside_the_assets_is_served(client, path):
    answer = client.get(path)
    assert 400 <= answer.status_code < 500 or "react-entry-point" in answer.text
    assert "LARGEST_REQUEST" not in answer.text


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(["about", "tile.png", "cell", "links", "texts", "curve"]),
    st.dictionaries(
        st.sampled_from(
            [
                "layer",
                "head",
                "sample",
                "tower",
                "q",
                "k",
                "reduce",
                "size",
                "row",
                "column",
                "side",
                "first",
                "last",
                "block",
            ]
        ),
        st.one_of(
            st.integers(-3, 2**70).map(str),
            st.text(max_size=8),
            st.sampled_from(["mean", "keys", "queries", "text", "1e9", "٣"]),
        ),
    ),
)
def test_malformed_requests_end_in_4xx_and_the_server_lives(client, what, query):
    answer = client.get(
        f"/_zoom/{what}", query_string={"record": "pooled.zarr", "layer": "0", "head": "0"} | query
    )
    assert answer.status_code == 200 or 400 <= answer.status_code < 500
    assert answer.status_code == 200 or "\n" not in answer.json["error"]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_malformed_callbacks_end_in_4xx_and_the_server_lives(app, client, data):
    """Whatever stands where Dash expects its payload, and whatever values stand in a payload of the right form."""
    output = data.draw(st.sampled_from(sorted(app.callback_map)))
    known = app.callback_map[output]
    body = data.draw(
        JSON
        | st.fixed_dictionaries(
            {
                "output": st.just(output) | st.text(max_size=20),
                "outputs": JSON,
                "inputs": st.just(
                    [
                        {"id": x["id"], "property": x["property"], "value": data.draw(JSON)}
                        for x in known["inputs"]
                    ]
                )
                | JSON,
                "state": st.just(
                    [
                        {"id": x["id"], "property": x["property"], "value": data.draw(JSON)}
                        for x in known["state"]
                    ]
                )
                | JSON,
                "changedPropIds": st.just([]) | JSON,
            }
        )
    )
    answer = client.post("/_dash-update-component", json=body)
    assert answer.status_code in (200, 204) or 400 <= answer.status_code < 500, answer.text
    assert alive(client)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 5000, json.dumps({"output": "a"}).encode()])
def test_a_body_that_is_no_callback_ends_in_4xx(client, data):
    answer = client.post("/_dash-update-component", data=data, content_type="application/json")
    assert 400 <= answer.status_code < 500
    assert alive(client)


def test_a_request_that_is_too_large_is_refused_unread(client):
    answer = client.post(
        "/_dash-update-component", data=b"x" * (LARGEST_REQUEST + 1), content_type="application/json"
    )
    assert answer.status_code == 413
    assert alive(client)


@pytest.mark.parametrize("method", ["put", "delete", "patch"])
def test_other_methods_are_refused(client, method):
    assert getattr(client, method)("/_zoom/cell").status_code in (403, 405)


def test_the_guard_stands_before_routes_that_come_later(records):
    from probe.dashboard.explorer.app import build

    app = build(records)
    app.server.add_url_rule("/later", "later", lambda: "here")
    assert app.server.test_client().get("/later", headers={"Host": "evil.example"}).status_code == 421
