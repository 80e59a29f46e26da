//! Debug data wherever it may be, and what is said where there is none.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use riptrace_agent::{
    binary::{DebugMissing, DebugOptions, Executable, Progress, cache::Cache},
    dwarf::Sections,
};

use crate::build::{Builder, PLAIN, VARIANTS, Variant};

const NEWEST: &str = "go1.26.8";
const WITH_GNU_ID: Variant =
    Variant { name: "gnu-id", arguments: &["-ldflags=-B gobuildid"], cgo: false, stripped: false };

fn options(cache: &Path) -> DebugOptions {
    DebugOptions {
        debug_file: None,
        debug_directories: Vec::new(),
        found_at: None,
        debuginfod_urls: Vec::new(),
        cache: Cache::at(cache),
    }
}

/// Debug sections, and how often inflating reported progress.
fn debug(program: &Path, options: &DebugOptions) -> Result<(Sections, usize), DebugMissing> {
    let reports = Mutex::new(0);
    let sections =
        Executable::open(program).unwrap().debug(options, &|_: Progress| *reports.lock().unwrap() += 1)?;
    let reports = *reports.lock().unwrap();
    Ok((sections, reports))
}

fn objcopy(arguments: &[&str], files: &[&Path]) -> bool {
    let status = Command::new("objcopy").args(arguments).args(files).status();
    status.is_ok_and(|status| status.success())
}

/// The sections that objcopy inflates.
fn truth(program: &Path, section: &str) -> Vec<u8> {
    let plain = program.with_extension("plain");
    assert!(objcopy(&["--decompress-debug-sections"], &[program, &plain]));
    let executable = Executable::open(&plain).unwrap();
    let section = executable.elf().section(section).unwrap();
    executable.elf().section_bytes(section).unwrap().to_vec()
}

fn same(ours: &Sections, program: &Path) {
    for (name, bytes) in [
        (".debug_info", &ours.debug_info),
        (".debug_line", &ours.debug_line),
        (".debug_abbrev", &ours.debug_abbrev),
        (".debug_frame", &ours.debug_frame),
        (".debug_loclists", &ours.debug_loclists),
        (".debug_addr", &ours.debug_addr),
    ] {
        assert!(truth(program, name) == **bytes, "{name}");
    }
}

fn modified(path: &Path) -> std::time::SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    files
}

#[test]
fn compressed_debug_data_is_inflated_once_and_then_comes_from_the_cache() {
    let Some(builder) = Builder::new(NEWEST) else { return };
    let program = builder.build(&PLAIN).unwrap();
    let cache = builder.directory().join("cache");
    let options = options(&cache);

    let (cold, reports) = debug(&program, &options).unwrap();
    assert!(reports > 0);
    same(&cold, &program);
    let (warm, reports) = debug(&program, &options).unwrap();
    assert_eq!(reports, 0);
    same(&warm, &program);
    assert_eq!(warm.cached_index, None);
    assert!(warm.runtime_types_base.is_some());

    // The index goes the same way.
    let executable = Executable::open(&program).unwrap();
    executable.debug(&options, &|_| {}).unwrap();
    executable.store_index(&options, b"an index");
    assert_eq!(debug(&program, &options).unwrap().0.cached_index.as_deref(), Some(b"an index".as_slice()));
    assert_eq!(files(&cache).len(), 2);

    // A damaged or cut cache file is made anew.
    for damage in [0, 100, 5000] {
        let [_, sections] = files(&cache).try_into().unwrap();
        let bytes = fs::read(&sections).unwrap();
        fs::write(&sections, &bytes[..damage]).unwrap();
        same(&debug(&program, &options).unwrap().0, &program);
    }
    // What is mapped outlives the file.
    let (mapped, _) = debug(&program, &options).unwrap();
    fs::remove_dir_all(&cache).unwrap();
    same(&mapped, &program);
    same(&debug(&program, &options).unwrap().0, &program);
}

#[test]
fn nothing_is_kept_where_others_can_write_or_nothing_can_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let Some(builder) = Builder::new(NEWEST) else { return };
    let program = builder.build(&PLAIN).unwrap();
    let shared = builder.directory().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    same(&debug(&program, &options(&shared)).unwrap().0, &program);
    assert!(files(&shared).is_empty());
    same(&debug(&program, &options(Path::new("/proc/nowhere"))).unwrap().0, &program);
    let none = DebugOptions { cache: Cache::none(), ..options(&shared) };
    same(&debug(&program, &none).unwrap().0, &program);
}

#[test]
fn the_least_recently_used_goes_when_the_cache_is_full() {
    let Some(builder) = Builder::new(NEWEST) else { return };
    let programs = [&PLAIN, &WITH_GNU_ID, &VARIANTS[1]].map(|variant| builder.build(variant).unwrap());
    let cache = builder.directory().join("cache");
    let options = options(&cache);
    debug(&programs[0], &options).unwrap();
    let [first] = files(&cache).try_into().unwrap();
    debug(&programs[1], &options).unwrap();
    let second = files(&cache).into_iter().find(|file| *file != first).unwrap();
    // The first is used again, the second becomes the oldest.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let before = modified(&first);
    debug(&programs[0], &options).unwrap();
    assert!(modified(&first) > before);
    let bytes = fs::metadata(&first).unwrap().len();
    let tight = DebugOptions { cache: Cache::at(&cache).bounded(bytes * 5 / 2), ..options };
    debug(&programs[2], &tight).unwrap();
    assert!(first.exists() && !second.exists());
    assert_eq!(files(&cache).len(), 2);
}

#[test]
fn separate_debug_files_are_found_and_checked() {
    let Some(builder) = Builder::new(NEWEST) else { return };
    let program = builder.build(&WITH_GNU_ID).unwrap();
    let directory = builder.directory();
    let cache = directory.join("cache");
    let separate = directory.join("program.debug");
    if !objcopy(&["--only-keep-debug"], &[&program, &separate]) {
        eprintln!("skipped: no objcopy");
        return;
    }
    let stripped = directory.join("stripped");
    assert!(objcopy(&["--strip-all"], &[&program, &stripped]));
    assert!(matches!(debug(&stripped, &options(&cache)), Err(DebugMissing::Absent { .. })));

    // Named by the user.
    let named = DebugOptions { debug_file: Some(separate.clone()), ..options(&cache) };
    same(&debug(&stripped, &named).unwrap().0, &program);

    // Of another build.
    let other = builder.build(&PLAIN).unwrap();
    let error = debug(&other, &named).unwrap_err().to_string();
    assert!(error.contains("belongs to another build") && error.contains("program.debug"), "{error}");
    let empty = DebugOptions { debug_file: Some(stripped.clone()), ..options(&cache) };
    assert!(debug(&stripped, &empty).unwrap_err().to_string().ends_with("has no DWARF"));
    let absent = DebugOptions { debug_file: Some(directory.join("absent")), ..options(&cache) };
    assert!(debug(&stripped, &absent).unwrap_err().to_string().starts_with("debug file: cannot open"));

    // By build id.
    let id = Executable::open(&stripped).unwrap().build_id().unwrap().to_owned();
    let (first, rest) = id.split_at(2);
    let folder = directory.join("debug/.build-id").join(first);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(&separate, folder.join(format!("{rest}.debug"))).unwrap();
    let by_id = DebugOptions { debug_directories: vec![directory.join("debug")], ..options(&cache) };
    same(&debug(&stripped, &by_id).unwrap().0, &program);
    assert!(
        Executable::open(&stripped).unwrap().debug_status(&by_id).unwrap().ends_with(format!("{rest}.debug"))
    );

    // By debug link: beside it, in .debug, and not when the checksum is another's.
    let linked = directory.join("linked");
    let link = format!("--add-gnu-debuglink={}", separate.display());
    assert!(objcopy(&[&link], &[&stripped, &linked]));
    same(&debug(&linked, &options(&cache)).unwrap().0, &program);
    fs::create_dir(directory.join(".debug")).unwrap();
    let hidden = directory.join(".debug/program.debug");
    fs::rename(&separate, &hidden).unwrap();
    same(&debug(&linked, &options(&cache)).unwrap().0, &program);
    let mut bytes = fs::read(&hidden).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&hidden, bytes).unwrap();
    assert!(matches!(debug(&linked, &options(&cache)), Err(DebugMissing::Absent { .. })));
}

#[test]
fn a_debuginfod_server_is_asked_by_build_id_and_only_once() {
    let Some(builder) = Builder::new(NEWEST) else { return };
    let program = builder.build(&WITH_GNU_ID).unwrap();
    let directory = builder.directory();
    let stripped = directory.join("stripped");
    if !objcopy(&["--strip-all"], &[&program, &stripped]) {
        eprintln!("skipped: no objcopy");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (file, log) = (fs::read(&program).unwrap(), Arc::clone(&asked));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap();
            let path = String::from_utf8_lossy(&request[..read]).split(' ').nth(1).unwrap().to_owned();
            let (status, body) = if path.starts_with("/good/") {
                ("200 OK", file.as_slice())
            } else if path.starts_with("/wrong/") {
                ("200 OK", b"<html>".as_slice())
            } else {
                ("404 Not Found", b"".as_slice())
            };
            log.lock().unwrap().push(path);
            let header =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(header.as_bytes()).unwrap();
            stream.write_all(body).unwrap();
        }
    });
    let urls = ["/none", "/wrong", "/good"].map(|path| format!("{url}{path}")).to_vec();
    let options = DebugOptions { debuginfod_urls: urls, ..options(&directory.join("cache")) };
    same(&debug(&stripped, &options).unwrap().0, &program);
    let id = Executable::open(&stripped).unwrap().build_id().unwrap().to_owned();
    assert_eq!(
        *asked.lock().unwrap(),
        ["none", "wrong", "good"].map(|path| format!("/{path}/buildid/{id}/debuginfo"))
    );
    same(&debug(&stripped, &options).unwrap().0, &program);
    assert_eq!(asked.lock().unwrap().len(), 3);
    // A status is asked for without the network.
    let elsewhere = DebugOptions { cache: Cache::none(), ..options };
    assert!(Executable::open(&stripped).unwrap().debug_status(&elsewhere).is_err());
    assert_eq!(asked.lock().unwrap().len(), 3);
}

#[test]
fn what_removed_debug_data_is_said() {
    let Some(builder) = Builder::new(NEWEST) else { return };
    let build =
        |name, arguments| builder.build(&Variant { name, arguments, cgo: false, stripped: true }).unwrap();
    let plain = builder.build(&PLAIN).unwrap();
    let strip = |name: &str, argument: &str| {
        let path = builder.directory().join(name);
        assert!(objcopy(&[argument], &[&plain, &path]));
        path
    };
    let rest = "no DWARF; lines, functions and stacks still work, variables do not";
    for (program, cause, remedy) in [
        (
            build("w", &["-ldflags=-w"]),
            "was built with -ldflags=-w",
            "rebuild without -w or give --debug-file",
        ),
        (
            build("s", &["-ldflags=-s"]),
            "was built with -ldflags=-s",
            "rebuild without -s or give --debug-file",
        ),
        (
            build("sw", &["-ldflags=-s -w"]),
            "was built with -ldflags=-w",
            "rebuild without -w or give --debug-file",
        ),
        (
            build("trimmed-w", &["-trimpath", "-ldflags=-w"]),
            "was built with -ldflags=-w, or stripped of debug data",
            "rebuild without -w or give --debug-file",
        ),
        (
            build("trimmed-s", &["-trimpath", "-ldflags=-s"]),
            "was built with -ldflags=-s, or stripped",
            "rebuild without -s or give --debug-file",
        ),
        (
            strip("stripped-all", "--strip-all"),
            "was stripped",
            "use the file from before strip, or give it with --debug-file",
        ),
        (
            strip("stripped-debug", "--strip-debug"),
            "was stripped",
            "use the file from before strip, or give it with --debug-file",
        ),
    ] {
        let error = debug(&program, &options(&builder.directory().join("cache"))).unwrap_err();
        assert_eq!(error.to_string(), format!("{} {cause}: {rest}; {remedy}", program.display()));
    }
}

#[test]
fn every_way_of_compressing_is_read() {
    let Some(builder) = Builder::new(NEWEST) else { return };
    let program = builder.build(&PLAIN).unwrap();
    let cache = builder.directory().join("cache");
    for method in ["none", "zlib-gabi", "zlib-gnu", "zstd"] {
        let path = builder.directory().join(method);
        if !objcopy(&[&format!("--compress-debug-sections={method}")], &[&program, &path]) {
            eprintln!("skipped: objcopy does not do {method}");
            continue;
        }
        match debug(&path, &options(&cache)) {
            Ok((sections, _)) => same(&sections, &program),
            Err(error) => panic!("{method}: {error}"),
        }
    }
}
