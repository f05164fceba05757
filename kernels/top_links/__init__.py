"""One sweep over the keys of each block of query rows: the strongest keys of every query."""

from probe.kernels.top_links.api import MOST_LINKS, TopLinks, top_links

__all__ = ["MOST_LINKS", "TopLinks", "top_links"]
