"""Host memory between the packed file and an accelerator: what has been read once need not be read again."""

from torch import Tensor

from triptych.core.errors import TriptychError
from triptych.experts.cache import Cause
from triptych.experts.torch.host_slots import HostPool, HostSlots, Key
from triptych.experts.torch.pack_file import PackFile
from triptych.experts.torch.reads import Read, ReadQueue


class HostTier:
    """Slots of host memory, filled in the background. One thread uses it.

    Args:
        file: With the experts.
        pool: How memory is divided; more frames than slots are held at a time.
        memory: [nbytes] uint8 of it, on pages.
        readers: Threads.
    """

    def __init__(self, file: PackFile, pool: HostPool, memory: Tensor, readers: int) -> None:
        self._file = file
        self._pool = pool
        self._memory = memory
        self._slots = HostSlots(pool.frames, pool.parts)
        self._reads = ReadQueue(self._read, readers)
        self._under_way: dict[int, Key] = {}
        self._failed: dict[int, tuple[Key, TriptychError]] = {}

    def hold(self, key: Key, cause: Cause) -> int | None:
        """The slot that an expert is in, or is being read into; its own until it is released.

        One that may be rounded may be there exactly. None when all slots are held.
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

    def has(self, key: Key) -> bool:
        """Whether an expert is there, or being read, so that `hold` reads nothing."""
        return key in self._slots

    def rounded(self, slot: int) -> bool:
        """Whether what it holds, or is to hold, is rounded."""
        return self._slots.key(slot).rounded

    def release(self, slot: int) -> None:
        """Whoever has held it needs it no more. What could not be read is forgotten with the last of them."""
        if not self._slots.unpin(slot):
            return
        if slot in self._failed:
            self._slots.forget(self._failed.pop(slot)[0])
        elif (key := self._slots.key(slot)).rounded:
            self._supersede(key.exact)

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
        """Its memory, uint8: as many bytes as the form of what it holds may take."""
        return self._room(slot, rounded=self.rounded(slot))

    def close(self) -> None:
        """Ends the threads."""
        self._reads.close()

    def _note(self) -> None:
        for arrived in self._reads.arrived():
            key = self._under_way.pop(arrived.slot)
            if arrived.error is not None:
                self._failed[arrived.slot] = key, arrived.error
            elif not key.rounded:
                self._supersede(key)

    def _supersede(self, exact: Key) -> None:
        """Where an exact expert is there, which `hold` gives to all, its rounded one keeps memory for nobody."""
        rounded, slot = exact._replace(rounded=True), self._slots.slot(exact)
        there = slot is not None and slot not in self._under_way and slot not in self._failed
        if there and self._slots.idle(rounded):
            self._slots.forget(rounded)

    def _read(self, read: Read) -> None:
        into = self._room(read.slot, rounded=read.rounded)
        self._file.read(read.layer, read.number, into, rounded=read.rounded)

    def _room(self, slot: int, *, rounded: bool) -> Tensor:
        start = slot * self._pool.slot_bytes
        return self._memory[start : start + self._pool.slot_bytes * (1 if rounded else self._pool.parts)]
