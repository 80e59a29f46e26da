use super::*;

#[test]
fn locations_are_read_as_people_write_them() {
    let line = |file: &str, line| LocationRequest::Line { file: file.into(), line };
    let function = |name: &str| LocationRequest::Function { name: name.into() };
    for (text, expected) in [
        ("file.go:42", line("file.go", 42)),
        ("./dir/file.go:42", line("dir/file.go", 42)),
        ("C:/src/file.go:7", line("C:/src/file.go", 7)),
        ("example.com/m@v1.2.3/a.go:1", line("example.com/m@v1.2.3/a.go", 1)),
        ("pkg.Func", function("pkg.Func")),
        ("pkg.(*T).Method", function("pkg.(*T).Method")),
        ("example.com/a.b/pkg.T.Method", function("example.com/a.b/pkg.T.Method")),
        ("main.main.func1", function("main.main.func1")),
        ("*0x4a1b2c", LocationRequest::Address { link_address: 0x4a_1b2c }),
    ] {
        assert_eq!(text.parse::<LocationRequest>().as_ref(), Ok(&expected));
    }
}

#[test]
fn a_mistake_is_pointed_at() {
    for (text, column, problem) in [
        ("", 1, "missing"),
        ("file.go", 8, "line is missing"),
        ("file.go:", 9, "number is missing"),
        ("file.go:4x", 10, "digits"),
        ("file.go:0", 9, "count from 1"),
        ("file.go:99999999999", 9, "that many"),
        (":42", 1, "file's name"),
        ("*4a", 2, "0x"),
        ("*0x", 4, "missing"),
        ("*0x4g", 5, "hexadecimal"),
        ("*0x11112222333344445", 4, "64 bits"),
        ("main", 5, "function's name"),
        ("main.", 6, "function's name"),
        ("main.(*T.M", 6, "parentheses"),
        ("main.F x", 7, "space"),
    ] {
        let error = text.parse::<LocationRequest>().unwrap_err();
        assert_eq!(error.column, column, "{error}");
        assert!(error.problem.contains(problem), "{error}");
    }
}

#[test]
fn errors_say_what_was_asked_why_it_failed_and_what_to_do() {
    let no_code =
        |reason, nearest| LocationError::NoCode { file: "handler.go".into(), line: 41, reason, nearest };
    let several = LocationError::SeveralFiles {
        file: "handler.go".into(),
        count: 3,
        files: vec!["/a/handler.go".into(), "/b/handler.go".into(), "/c/handler.go".into()],
    };
    for (error, expected) in [
        (
            no_code(Some("a comment"), vec![40, 43]),
            "no code at handler.go:41 (a comment); nearest lines with code: 40, 43",
        ),
        (no_code(None, vec![40]), "no code at handler.go:41; nearest line with code: 40"),
        (
            several,
            "handler.go matches 3 files: /a/handler.go, /b/handler.go, /c/handler.go; give a longer suffix",
        ),
    ] {
        assert_eq!(error.to_string(), expected);
    }
}
