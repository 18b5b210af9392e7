"""How programs say that there is no memory left, where neither an exit code nor the class of an error does."""
import re

from pipeline.files import no_room

WORDS = re.compile(r"bad_alloc|out of memory|\bOOM\b|RESOURCE_EXHAUSTED|cannot allocate memory|failed to alloc|"
                   r"alloc\w*[ _]failed|can't start new thread|failed to map segment|"
                   r"could not create a (memory|primitive)|Resource temporarily unavailable", re.IGNORECASE)


def is_said(text):
    """Tells whether a text says that memory is full; that a disk is full is said in some of the same words."""
    return no_room(text) is None and bool(WORDS.search(text))
