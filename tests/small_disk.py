"""A disk that can be full: a small tmpfs, filled with a ballast file."""
import contextlib
import os
import resource
import subprocess

PAGE = 4096


class SmallDisk:
    """A folder on a file system of its own of a few megabytes.

    Attributes:
      folder: path.
      real: whether it is a real file system.
    """

    real = True

    def __init__(self, folder):
        self.folder = str(folder)

    def fill(self, leave=0):
        """Takes all the room but `leave` bytes, rounded to pages."""
        room = os.statvfs(self.folder)
        wanted = room.f_bavail * room.f_bsize - leave // PAGE * PAGE
        ballast = os.path.join(self.folder, "ballast")
        if wanted >= 0:
            with open(ballast, "ab") as file:
                os.posix_fallocate(file.fileno(), os.path.getsize(ballast), wanted) if wanted else None
        else:
            os.truncate(ballast, os.path.getsize(ballast) + wanted)

    def free(self):
        """Gives all the room back."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(self.folder, "ballast"))


class LimitedFiles(SmallDisk):
    """Where nothing may be mounted (a container without that right): a limit on the size of the process's files.

    Writing beyond it fails as on a full disk, with another number (EFBIG); Python ignores the signal of it.
    """

    real = False
    least = 2 * PAGE  # Bytes that every file may have: small files of the system's temporary folder.
    process = 0  # This one; the limit of a child can be set from here too.

    def fill(self, leave=0):
        """Lets no file grow beyond `leave` bytes, or `least` where that is more."""
        self._limit(max(leave, self.least))

    def free(self):
        """Lets files grow as before."""
        self._limit(resource.getrlimit(resource.RLIMIT_FSIZE)[1])

    def _limit(self, size):
        with contextlib.suppress(ProcessLookupError):  # The child has ended.
            hard = resource.prlimit(self.process, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(self.process, resource.RLIMIT_FSIZE, (size, hard))


@contextlib.contextmanager
def small_disk(folder, megabytes):
    """Makes a folder a SmallDisk for a while."""
    os.makedirs(folder, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder],
                             capture_output=True).returncode == 0
    disk = SmallDisk(folder) if mounted else LimitedFiles(folder)
    try:
        yield disk
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)
        else:
            disk.free()
