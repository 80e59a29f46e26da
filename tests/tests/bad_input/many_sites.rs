//! Two thousand places in one command.

use std::ops::Range;

use super::*;

#[test]
fn two_thousand_sites_are_armed_and_disarmed_at_once() {
    const COPIES: usize = 2000;
    if !requirements::bpf("2000 sites") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = many_copies(folder.path(), COPIES);
    let executable = go::build_in(folder.path(), &local(), Mode::Optimised).unwrap();
    let mut fixture = Fixture::start(&executable, &[]).unwrap();
    let mut probe = Running::probe(fixture.pid(), &[source], &["--rate", "10"]).unwrap();
    probe.wait_attached(1, TIMEOUT).unwrap();
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let started = Instant::now();
    let finished = probe.interrupt(TIMEOUT).unwrap();
    let took = started.elapsed();
    drop(fixture.end());
    finished.expect(0, &[]);
    let sites = finished.of_kind("attached").next().unwrap()["sites"].as_array().unwrap().len();
    assert!(sites >= COPIES, "{sites} sites");
    assert_eq!(finished.of_kind("stats").next().unwrap()["hits"].as_u64(), Some(COPIES as u64 * 3));
    assert!(took < Duration::from_secs(5), "disarming took {took:?}");
}

/// Writes a program in which one function is inlined so many times; says where its line is.
fn many_copies(folder: &Path, copies: usize) -> String {
    fs::write(folder.join("go.mod"), "module many\n\ngo 1.21\n").unwrap();
    let calls = |range: Range<usize>| range.map(|i| format!("\tadd({})\n", i + 1)).collect::<String>();
    let mut source = String::from(
        "package main\n\nimport (\n\t\"bufio\"\n\t\"fmt\"\n\t\"os\"\n)\n\nvar sum int\n\nfunc add(n int) {\n\tsum += n * sum // probed\n}\n\n",
    );
    let line = source.lines().position(|line| line.contains("// probed")).unwrap() + 1;
    let functions = copies / 100;
    for function in 0..functions {
        let body = calls(function * 100..(function + 1) * 100);
        source += &format!("//go:noinline\nfunc f{function}() {{\n{body}}}\n\n");
    }
    let all = (0..functions).map(|function| format!("\t\tf{function}()\n")).collect::<String>();
    source += &format!(
        "func main() {{\n\tin := bufio.NewReader(os.Stdin)\n\tfmt.Println(`{{\"ready\":1}}`)\n\tin.ReadString('\\n')\n\tfor i := 0; i < 3; i++ {{\n{all}\t}}\n\tfmt.Println(`{{\"done\":true}}`)\n\tin.ReadString('\\n')\n}}\n"
    );
    fs::write(folder.join("many.go"), source).unwrap();
    format!("many.go:{line}")
}
