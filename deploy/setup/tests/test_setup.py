"""Set-up under the failures it promises to survive."""

import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest
import zipfile
from contextlib import redirect_stderr
from pathlib import Path
from unittest import mock

SETUP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SETUP))

import client_tools  # noqa: E402
import command  # noqa: E402
import libtorch  # noqa: E402
import packages  # noqa: E402
from step import Ledger, SetupError, Step, duration, run_all  # noqa: E402


def write_text(text: str):
    return lambda place, _scratch: place.write_text(text)


class Case(unittest.TestCase):
    """Gives each test a folder of its own and a ledger that keeps what it says."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.said: list[str] = []
        self.ledger = Ledger(self.root / "ledger", self.said.append)

    def step(self, **changes) -> Step:
        given = {"name": "thing", "makes": "a thing", "target": self.root / "out" / "thing", "needs_mib": 0}
        return Step(**(given | {"make": write_text("made")} | changes))

    def assert_nothing_left(self, folder: Path | None = None):
        """Nothing but what was there before stands beside the target."""
        folder = folder or self.root / "out"
        self.assertEqual([path.name for path in folder.iterdir() if path.name.startswith(".")], [])


class StepTest(Case):
    def test_a_second_run_finds_everything_there(self):
        self.assertTrue(self.ledger.run(self.step()))
        started = time.monotonic()
        never = mock.Mock(side_effect=AssertionError("ran again"))
        self.assertFalse(self.ledger.run(self.step(make=never)))
        self.assertLess(time.monotonic() - started, 0.5)
        self.assertIn("already there", self.said[-1])
        self.assert_nothing_left()

    def test_a_changed_input_makes_it_again(self):
        pins = self.root / "pins.txt"
        pins.write_text("a==1")
        self.ledger.run(self.step(inputs=(pins,)))
        pins.write_text("a==2")
        self.assertTrue(self.ledger.run(self.step(inputs=(pins,), make=write_text("new"))))
        self.assertEqual((self.root / "out" / "thing").read_text(), "new")

    def test_a_changed_fact_makes_it_again(self):
        self.ledger.run(self.step(facts=("cpu",)))
        self.assertTrue(self.ledger.run(self.step(facts=("cuda",))))

    def test_a_removed_target_is_made_again(self):
        self.ledger.run(self.step())
        (self.root / "out" / "thing").unlink()
        self.assertTrue(self.ledger.run(self.step()))

    def test_a_folder_is_replaced_as_a_whole(self):
        def folder_with(name):
            def make(place, _scratch):
                place.mkdir()
                (place / name).touch()

            return make

        self.ledger.run(self.step(make=folder_with("old"), facts=("1",)))
        self.ledger.run(self.step(make=folder_with("new"), facts=("2",)))
        self.assertEqual([path.name for path in (self.root / "out" / "thing").iterdir()], ["new"])
        self.assert_nothing_left()

    def test_a_failed_step_leaves_the_old_result_and_no_rest(self):
        def fail_half_way(place, scratch):
            place.write_text("half")
            (scratch / "wheel").write_text("rest")
            raise SetupError("the network is gone")

        self.ledger.run(self.step(facts=("1",)))
        with self.assertRaisesRegex(SetupError, "the network is gone"):
            self.ledger.run(self.step(facts=("2",), make=fail_half_way))
        self.assertEqual((self.root / "out" / "thing").read_text(), "made")
        self.assert_nothing_left()

    def test_a_failure_is_explained_with_the_way_on(self):
        def refuse(_place, _scratch):
            raise SetupError("no such version")

        after = mock.Mock()
        errors = io.StringIO()
        with redirect_stderr(errors):
            code = run_all(self.ledger, [self.step(make=refuse), self.step(name="after", make=after)])
        self.assertEqual(code, 1)
        self.assertIn("thing: no such version", errors.getvalue())
        self.assertIn("deploy/setup/setup.py thing", errors.getvalue())
        after.assert_not_called()

    def test_a_small_disk_is_refused_before_any_work(self):
        make = mock.Mock()
        with self.assertRaisesRegex(SetupError, "MiB free, this step needs"):
            self.ledger.run(self.step(needs_mib=10**9, make=make))
        make.assert_not_called()
        self.assert_nothing_left()

    def test_durations_are_said_as_a_person_would(self):
        self.assertEqual([duration(0.42), duration(12.3), duration(185)], ["0.4 s", "12 s", "3 min 05 s"])


class FullDiskTest(Case):
    """A disk that really is full where this user may mount a small one, else one that says so."""

    def test_a_full_disk_leaves_nothing_and_names_the_reason(self):
        disk = self.root / "disk"
        disk.mkdir()
        mounted = os.geteuid() == 0 and self.mount(disk)
        step = self.step(target=disk / "thing", make=self.fill if mounted else self.claim_full)
        with self.assertRaisesRegex(SetupError, "No space left on device"):
            self.ledger.run(step)
        self.assertEqual(list(disk.iterdir()), [])

    def mount(self, folder: Path) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return False
        self.addCleanup(subprocess.run, ["umount", str(folder)], check=True)
        return True

    @staticmethod
    def fill(place: Path, _scratch: Path):
        place.write_bytes(bytes(2 << 20))

    @staticmethod
    def claim_full(place: Path, _scratch: Path):
        place.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))


class ProcessTest(Case):
    """Runs of set-up as processes of their own, as `kill` and a second terminal see them."""

    SCRIPT = textwrap.dedent("""
        import signal, sys, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from step import Ledger, Step, run_all
        root = Path(sys.argv[2])
        def make(place, scratch):
            place.write_text("half")
            (root / "begun").touch()
            while not (root / "go").exists():
                time.sleep(0.01)
            place.write_text("whole")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        step = Step("thing", "a thing", root / "out" / "thing", make, needs_mib=0)
        sys.exit(run_all(Ledger(root / "ledger"), [step]))
    """)

    def start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", self.SCRIPT, SETUP, self.root],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def wait_until_begun(self):
        deadline = time.monotonic() + 20
        while not (self.root / "begun").exists():
            self.assertLess(time.monotonic(), deadline, "the step never began")
            time.sleep(0.01)

    def test_a_polite_kill_cleans_up(self):
        process = self.start()
        self.wait_until_begun()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(20), 130)
        self.assertEqual(list((self.root / "out").iterdir()), [])

    def test_after_a_hard_kill_the_next_run_clears_the_rest_and_finishes(self):
        process = self.start()
        self.wait_until_begun()
        process.kill()
        process.wait(20)
        self.assertFalse((self.root / "out" / "thing").exists())
        self.assertTrue(self.ledger.run(self.step()))
        self.assertEqual([path.name for path in (self.root / "out").iterdir()], ["thing"])

    def test_two_runs_at_once_make_it_once(self):
        first = self.start()
        self.wait_until_begun()
        second = self.start()
        # The second says that it waits, which is when the first may go on.
        self.assertIn(f"waiting for process {first.pid}", second.stdout.readline())
        (self.root / "go").touch()
        self.assertEqual((first.wait(20), second.wait(20)), (0, 0))
        self.assertIn("already there", second.stdout.read())
        self.assertEqual((self.root / "out" / "thing").read_text(), "whole")


class CommandTest(Case):
    def test_a_failed_command_shows_its_last_lines(self):
        script = "import sys; [print('line', i) for i in range(99)]; sys.exit('cannot reach the registry')"
        with self.assertRaises(SetupError) as caught:
            command.run_quietly([sys.executable, "-c", script], self.root, "Try again. It said:")
        text = str(caught.exception)
        self.assertIn("cannot reach the registry", text)
        self.assertIn("line 98", text)
        self.assertNotIn("line 50\n", text)

    def test_an_interrupted_command_does_not_run_on(self):
        pid_file = self.root / "pid"
        script = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"

        def interrupt():
            while not (pid_file.exists() and pid_file.read_text()):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        # A shell starts what runs in its background with the signal ignored.
        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
        threading.Thread(target=interrupt).start()
        with self.assertRaises(KeyboardInterrupt):
            command.run_quietly([sys.executable, "-c", script], self.root, "")
        self.assertFalse(Path("/proc", pid_file.read_text()).exists())


class DownloadTest(Case):
    """pip against a folder of wheels: what reaches set-up when a download is damaged."""

    def setUp(self):
        super().setUp()
        self.wheel = self.root / "wheels" / "weft_probe-1.0-py3-none-any.whl"
        self.wheel.parent.mkdir()
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("weft_probe/lib/libprobe.so", "library")
            archive.writestr(
                "weft_probe-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: weft-probe\nVersion: 1.0\n"
            )
            archive.writestr("weft_probe-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr("weft_probe-1.0.dist-info/RECORD", "")
        self.pins = self.root / "pins.txt"
        digest = hashlib.sha256(self.wheel.read_bytes()).hexdigest()
        self.pins.write_text(f"weft-probe==1.0 --hash=sha256:{digest}\n")
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheel.parent), "PIP_QUIET": "2"}
        self.enterContext(mock.patch.dict(os.environ, offline))

    def fetch(self, place: Path, scratch: Path):
        (wheel,) = packages.download(self.pins, scratch)
        wheel.rename(place)

    def test_a_whole_wheel_arrives(self):
        self.ledger.run(self.step(make=self.fetch))
        self.assertEqual((self.root / "out" / "thing").read_bytes(), self.wheel.read_bytes())

    def test_a_damaged_wheel_is_refused(self):
        damaged = bytearray(self.wheel.read_bytes())
        damaged[40] ^= 1
        self.wheel.write_bytes(damaged)
        with self.assertRaisesRegex(SetupError, "hash that does not match"):
            self.ledger.run(self.step(make=self.fetch))
        self.assert_nothing_left()

    def test_without_a_network_nothing_is_left(self):
        self.wheel.unlink()
        with self.assertRaisesRegex(SetupError, "trying again continues"):
            self.ledger.run(self.step(make=self.fetch))
        self.assert_nothing_left()


class LibtorchTest(Case):
    def test_a_wheel_without_the_libraries_is_refused_by_name(self):
        wheel = self.root / "torch.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("torch/version.py", "__version__ = '2.11.0+cu130'\n")
            archive.writestr("torch/lib/libc10.so", "")
        with (
            mock.patch.object(libtorch, "download", return_value=[wheel]),
            self.assertRaisesRegex(SetupError, r"lack .*libtorch_cpu\.so"),
        ):
            self.ledger.run(self.step(make=lambda place, scratch: libtorch.make((libtorch.CPU_PINS,), place, scratch)))
        self.assert_nothing_left()

    def test_only_headers_and_usable_libraries_are_unpacked(self):
        members = [
            "torch/version.py",
            "torch/include/c10/core/Device.h",
            "torch/lib/libtorch_cpu.so",
            "torch/lib/libtorch_cuda.so",
            "torch/lib/libtorch_python.so",
            "torch/nn/modules.py",
            "nvidia/cu13/lib/libcudart.so.13",
        ]
        for keep_all, expected in [(False, 4), (True, 5)]:
            archive = mock.Mock(namelist=lambda: members)
            found = [str(target) for _, target in libtorch.wanted(archive, keep_all)]
            self.assertEqual(len(found), expected, found)
            self.assertIn("lib/libcudart.so.13", found)
            self.assertNotIn("lib/libtorch_python.so", found)


class ClientToolsTest(Case):
    def setUp(self):
        super().setUp()
        self.repository = self.root / "repository"
        self.repository.mkdir()
        (self.repository / "a.jar").write_bytes(b"a")
        self.pins = self.root / "java.txt"
        self.pins.write_text(f"{hashlib.sha256(b'a').hexdigest()}  a.jar\n")
        self.enterContext(mock.patch.object(client_tools, "PINS", self.pins))

    def test_a_repository_that_holds_what_is_pinned_is_accepted(self):
        (self.repository / "a.pom").write_bytes(b"poms only say which archives are wanted")
        client_tools.check_pins(self.repository)

    def test_an_archive_that_is_another_or_not_pinned_or_missing_is_refused_by_name(self):
        archive, program = self.repository / "a.jar", self.repository / "b.exe"
        for name, change in [
            ("b.exe", lambda: program.write_bytes(b"b")),
            ("a.jar", lambda: (program.unlink(), archive.write_bytes(b"b"))),
            ("a.jar", archive.unlink),
        ]:
            change()
            with self.assertRaisesRegex(SetupError, f"^{name} has SHA-256"):
                client_tools.check_pins(self.repository)

    def test_a_toolchain_that_is_missing_or_too_old_is_refused_by_name(self):
        for program, least, said in [("no-such-program", 1, "there is no"), ("python3", 4, "found 'Python 3")]:
            with self.assertRaisesRegex(SetupError, f"needs Thing {least} or newer.*{said}"):
                command = [program, "--version"]
                client_tools.check_version(program, command, r"Python (\d+)", least, "Thing")


if __name__ == "__main__":
    unittest.main()
