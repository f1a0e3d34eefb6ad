"""Host memory between the packed file and an accelerator: what has been read once need not be read again."""

from torch import Tensor

from triptych.core.errors import TriptychError
from triptych.experts.cache import Cause
from triptych.experts.torch.host_slots import HostSlots, Key
from triptych.experts.torch.pack_file import PackFile
from triptych.experts.torch.reads import Read, ReadQueue


class HostTier:
    """Slots of host memory, filled in the background. One thread uses it.

    Args:
        file: With the experts.
        memory: [M, B] uint8, on pages; more slots than are held at a time.
        readers: Threads.
    """

    def __init__(self, file: PackFile, memory: Tensor, readers: int) -> None:
        self._file = file
        self._memory = memory
        self._slots = HostSlots(len(memory))
        self._reads = ReadQueue(self._read, readers)
        self._under_way: dict[int, Key] = {}
        self._failed: dict[int, tuple[Key, TriptychError]] = {}

    def hold(self, key: Key, cause: Cause) -> int | None:
        """The slot that an expert is in, or is being read into; its own until it is released.

        None when all slots are held.
        """
        slot = self._slots.find(key)
        if slot is None:
            slot = self._slots.take(key)
            if slot is None:
                return None
            self._under_way[slot] = key
            self._reads.put(Read(slot, *key), cause)
        elif cause == "demand":
            self._reads.promote(slot)
        self._slots.pin(slot)
        return slot

    def release(self, slot: int) -> None:
        """Whoever has held it needs it no more. What could not be read is forgotten with the last of them."""
        if self._slots.unpin(slot) and slot in self._failed:
            self._slots.forget(self._failed.pop(slot)[0])

    def promote(self, slot: int) -> None:
        """A step waits for it now."""
        self._reads.promote(slot)

    def drop(self, slot: int) -> bool:
        """Releases a slot whose read has not begun, and gives that up with the last who waits; else False."""
        if not self._reads.drop(slot):
            return False
        if self._slots.unpin(slot):
            self._slots.forget(self._under_way.pop(slot))
        else:
            self._reads.put(Read(slot, *self._under_way[slot]), "prefetch")
        return True

    def there(self, slot: int) -> bool:
        """Whether what it is to hold is there, or cannot be."""
        self._note()
        return slot not in self._under_way

    def intact(self, slot: int) -> bool:
        """Whether what it is to hold is there."""
        return self.there(slot) and slot not in self._failed

    def wait(self, slot: int) -> TriptychError | None:
        """Returns when `there`; why it is not, of a read that failed."""
        if slot in self._under_way:
            self._reads.wait([slot])
        self._note()
        return self._failed[slot][1] if slot in self._failed else None

    def blob(self, slot: int) -> Tensor:
        """[B] uint8."""
        return self._memory[slot]

    def close(self) -> None:
        """Ends the threads."""
        self._reads.close()

    def _note(self) -> None:
        for arrived in self._reads.arrived():
            key = self._under_way.pop(arrived.slot)
            if arrived.error is not None:
                self._failed[arrived.slot] = key, arrived.error

    def _read(self, read: Read) -> None:
        self._file.read(read.layer, read.number, self._memory[read.slot])
