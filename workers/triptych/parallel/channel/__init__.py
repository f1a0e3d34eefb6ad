"""What rank 0 and its followers tell each other: messages in order, and who is alive.

frames     a message on a connection; large arrays are not copied into it
entrance   who is let in: the key of this very group, and each rank once
hub        rank 0's end
member     a follower's end
watch      who has fallen silent: pure
"""

from triptych.parallel.channel.hub import Hub
from triptych.parallel.channel.member import Member

__all__ = ["Hub", "Member"]
