"""A real Chromium, found or installed, and pages in it that say what went wrong.

    python -m tests.browser.chromium

installs one where there is none, and prints where it is.
"""
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REMEDY = ("no Chromium is here and none could be installed: run 'apt-get install chromium' as root, or "
          "'python -m playwright install --with-deps chromium'")
TIMEOUT = 300_000  # ms that a page may take for anything: the cores are slow, and others use them too.


class NoBrowser(Exception):
    """There is no Chromium, and it could not be installed; the message has a remedy."""


def answers(path):
    """Tells whether the program at a path is a browser that starts: Ubuntu's /usr/bin/chromium-browser may be none."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and any(name in done.stdout for name in ("Chromium", "Chrome"))


def installed():
    """Returns the path of a Chromium, or None."""
    for name in NAMES:
        if (found := shutil.which(name)) and answers(found):
            return found
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if os.path.exists(own) and answers(own) else None


def install():
    """Tries to install one, by the system's packages and else by Playwright; what they say goes to standard error."""
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    if shutil.which("apt-get") and not (attempt([*apt, "update", "-qq"])
                                        and attempt([*apt, "install", "-y", "-qq", "chromium"])
                                        and installed()):
        attempt([sys.executable, "-m", "playwright", "install", "--with-deps", "chromium"])
    if not installed():
        attempt([sys.executable, "-m", "playwright", "install", "chromium"])


def attempt(command):
    """Runs a command; returns whether it succeeded."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=600).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return False


def path():
    """Returns the path of a Chromium, installed now where there was none.

    Raises:
      NoBrowser: that was not possible.
    """
    with open(os.path.join(tempfile.gettempdir(), f"mirrorline-chromium-{os.getuid()}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Parallel test processes install it once.
        found = installed()
        if not found:
            install()
            found = installed()
    if not found:
        raise NoBrowser(REMEDY)
    return found


@contextlib.contextmanager
def launched():
    """Starts the browser without a window; yields Playwright's Browser."""
    executable = path()
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # It refuses to run as root with one.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable,
            # Some containers have only 64 MiB of shared memory, and no GPU for WebGL.
            args=[*sandbox, "--disable-dev-shm-usage", "--enable-unsafe-swiftshader"])
        try:
            yield browser
        finally:
            browser.close()


class WatchedPage:
    """A page, and what went wrong in it.

    Attributes:
      page: Playwright's Page.
      problems: texts: errors on its console, exceptions in its scripts, requests that failed.
    """

    def __init__(self, context):
        """Opens a page in Playwright's BrowserContext."""
        self.page, self.problems = context.new_page(), []
        self.page.set_default_timeout(TIMEOUT)
        self.page.on("console", lambda said: said.type == "error" and self.problems.append(said.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("requestfailed", lambda request: "ERR_ABORTED" in request.failure or self.problems.append(
            f"{request.url}: {request.failure}"))  # The page itself aborts what it no longer needs.
        self.page.on("response", lambda response: response.status >= 400 and self.problems.append(
            f"{response.url}: {response.status}"))


if __name__ == "__main__":
    try:
        print(path())
    except NoBrowser as problem:
        sys.exit(str(problem))
