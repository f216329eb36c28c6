from hypothesis import given
from hypothesis import strategies as st

from penstock.text import StopMatcher


def find_stop(text, stops, include):
    """The whole text at once, character by character: the stop that ends first, the longest of those."""
    for end in range(1, len(text) + 1):
        hits = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if hits:
            stop = max(hits, key=len)
            return text[:end] if include else text[: end - len(stop)], stop
    return text, None


def run_matcher(pieces, stops, include):
    matcher = StopMatcher(stops, include)
    out, hit = "", None
    for piece in pieces:
        shown, stop = matcher.push(piece)
        assert hit is None or shown == ""
        out, hit = out + shown, stop
    return out + matcher.flush(), hit


TEXTS = st.text(alphabet="ab<|", max_size=30)
STOPS = st.lists(st.text(alphabet="ab<|", max_size=4), max_size=4).map(tuple)


@given(st.lists(TEXTS, max_size=8), STOPS, st.booleans())
def test_any_split_equals_a_search_of_the_whole(pieces, stops, include):
    assert run_matcher(pieces, stops, include) == find_stop("".join(pieces), stops, include)


def test_the_search_tells_a_wrong_matcher():
    naive = StopMatcher(("ab",), False)
    forgetful = "".join(StopMatcher(("ab",), False).push(piece)[0] for piece in ("a", "b"))
    assert "".join(naive.push(piece)[0] for piece in ("xa", "b")) == "x"
    assert forgetful + "ab" != find_stop("ab", ("ab",), False)[0]


@given(TEXTS, STOPS)
def test_holds_only_what_may_become_a_stop(text, stops):
    matcher = StopMatcher(stops, False)
    shown, hit = matcher.push(text)
    held = matcher.flush()
    if hit is None:
        assert shown + held == text
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_stop_across_pieces_and_overlap():
    assert run_matcher(["one ST", "O", "P two"], ("STOP",), False) == ("one ", "STOP")
    assert run_matcher(["one ST", "O", "P two"], ("STOP",), True) == ("one STOP", "STOP")
    assert run_matcher(["aab"], ("ab",), False) == ("a", "ab")
    assert run_matcher(["abcd"], ("abcd", "bc"), False) == ("a", "bc")


def test_no_stops_pass_through():
    matcher = StopMatcher((), False)
    assert matcher.push("anything") == ("anything", None)
    assert matcher.flush() == ""
    assert StopMatcher(("",), False).push("x") == ("x", None)
