"""Waiting for a page, from this process: the page's own policy forbids the browser to evaluate a string."""


def until(page, says, arg=None, seconds=30):
    """Wait until an expression of JavaScript is true in a page."""
    for _ in range(10 * seconds):
        if page.evaluate(says, arg):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never came true: {says}")
