//! No room: on the disk under the server's index, on the one under the broker, in the stream.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Command,
};

use super::*;
use riptrace_tests::nats::{self, NatsServer};

const HITS: u64 = 2_000;
const HITS_PER_SECOND: u64 = 1_000;

/// A small file system of its own.
pub struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, bytes: &str) -> Result<Self> {
        std::fs::create_dir_all(&at)?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"]).arg(&at);
        ensure!(command.status()?.success(), "no file system can be mounted at {}", at.display());
        Ok(Self(at))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Takes all the room that is left.
    fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.ballast())?;
        for size in [1 << 20, 4096] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        Ok(())
    }

    /// Gives it back.
    fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: who still has files open there is being killed.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// What the server answers to a GET: its status line, and all of it.
fn get(server: &Server, path: &str) -> Result<String> {
    let address = server.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn wait_ready(server: &Server, ready: bool) -> Result<String> {
    let mut last = String::new();
    wait(|| {
        last = get(server, "/readyz")?;
        let is_ready = last.split_whitespace().nth(1) == Some("200");
        Ok((is_ready == ready).then(|| last.clone()))
    })
    .with_context(|| format!("waiting for the server to be ready: {ready}\n{last}\n{}", server.program.log()))
}

#[test]
fn a_full_disk_under_the_index_delays_hits_and_loses_none() -> Result<()> {
    const TEST: &str = "index-disk-full";
    if !nats::is_there(TEST) || !requirements::bpf(TEST) {
        return Ok(());
    }
    let folder = Folder::new()?;
    let broker = NatsServer::start()?;
    let disk = Disk::mount(folder.path().join("server"), "16m")?;
    let mut scene = Scene::start_in(folder, TEST, &["--nats", &broker.url()], &[])?;
    scene.disk = Some(disk);
    scene.meter.run(HITS, 0)?;
    scene.wait_stored(HITS)?;
    scene.disk()?.fill()?;
    let truth = scene.meter.run(HITS, HITS_PER_SECOND)?;
    let problem = wait_ready(&scene.server, false)?;
    ensure!(problem.contains("no space for"), "{problem}");
    let status = scene.status()?;
    ensure!(status.stored < truth, "the disk was not full");
    ensure!(status.losses.total() == 0, "{:?}", status.losses);
    scene.disk()?.free()?;
    let status = scene.wait_accounted(truth)?;
    ensure!(status.losses.total() == 0, "{:?}", status.losses);
    wait_ready(&scene.server, true)?;
    scene.check_story(truth)
}

#[test]
fn a_full_disk_under_the_broker_costs_what_finds_no_room_and_it_goes_on_by_itself() -> Result<()> {
    const TEST: &str = "broker-disk-full";
    if !nats::is_there(TEST) || !requirements::bpf(TEST) {
        return Ok(());
    }
    let folder = Folder::new()?;
    // Index and broker are on one disk, as they are by default.
    let disk = Disk::mount(folder.path().join("server"), "96m")?;
    let queue = ["--queue-bytes", "4194304"];
    let options = ["--rate", "0", "--max-string", "2000"];
    let mut scene = Scene::build(folder, TEST, &[], &queue, 2_000, &options)?;
    scene.disk = Some(disk);
    scene.meter.run(HITS, 0)?;
    scene.wait_stored(HITS)?;
    scene.disk()?.fill()?;
    // More than the queue holds: some are lost, and counted.
    scene.meter.run(3 * HITS, HITS_PER_SECOND)?;
    scene.disk()?.free()?;
    let truth = scene.meter.run(HITS, HITS_PER_SECOND)?;
    let status = scene.wait_accounted(truth)?;
    let losses = &status.losses;
    println!("{truth} hits were made, {} are stored, {losses:?}", status.stored);
    ensure!(losses.unknown == 0 && losses.undecodable == 0, "{losses:?}");
    ensure!(losses.refused + losses.queue_full > 0, "everything found room: {losses:?}");
    wait_ready(&scene.server, true)?;
    // Everything works as before.
    let more = scene.meter.run(HITS, HITS_PER_SECOND)?;
    let again = scene.wait_accounted(more)?;
    ensure!(again.losses == status.losses, "{:?}, before {:?}", again.losses, status.losses);
    scene.check_story(again.stored)
}

#[test]
fn what_a_small_stream_lets_go_before_it_was_read_is_counted_as_unknown() -> Result<()> {
    // Of 20 KB each: three times what the stream holds.
    const LARGE_HITS: u64 = 2_400;
    let Some(mut scene) = Scene::start_in_small_stream()? else { return Ok(()) };
    scene.meter.run(100, 0)?;
    scene.wait_stored(100)?;
    scene.server.program.signal(libc::SIGSTOP)?;
    scene.meter.run(LARGE_HITS, 400)?;
    scene.server.program.signal(libc::SIGCONT)?;
    let truth = scene.meter.run(100, 0)?;
    let status = scene.wait_accounted(truth)?;
    ensure!(status.losses.unknown > 0, "the stream held everything");
    ensure!(status.losses.total() == status.losses.unknown, "{:?}", status.losses);
    scene.check_story(status.stored)
}

impl Scene {
    fn disk(&self) -> Result<&Disk> {
        self.disk.as_ref().context("there is no disk")
    }

    fn start_in_small_stream() -> Result<Option<Self>> {
        const TEST: &str = "small-stream";
        if !requirements::bpf(TEST) {
            return Ok(None);
        }
        let options = ["--rate", "0", "--max-string", "20000"];
        Self::build(Folder::new()?, TEST, &["--stream-bytes", "16MiB"], &[], 20_000, &options).map(Some)
    }
}
