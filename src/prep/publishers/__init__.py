"""A small local world of publishers: what `prep demo` and the tests download from.

`World` writes a few dozen records of each dataset in its publisher's exact layout, every known trap among them, and
serves them on loopback through the endpoints that the publishers have.
"""

from prep.publishers.replies import Fault, Sent
from prep.publishers.server import TOKEN, PublisherServer
from prep.publishers.world import World

__all__ = ["TOKEN", "Fault", "PublisherServer", "Sent", "World"]
