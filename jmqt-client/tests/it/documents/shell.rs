//! Commands in the documents name existing programs and files.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::{Snippet, in_language, root};

/// Programs of others that documents may call.
const PROGRAMS: [&str; 20] = [
    "cat",
    "cd",
    "chmod",
    "cp",
    "curl",
    "echo",
    "export",
    "install",
    "mariadb",
    "mariadb-dump",
    "mkdir",
    "mosquitto_pub",
    "mosquitto_sub",
    "openssl",
    "printf",
    "python3",
    "sleep",
    "systemctl",
    "tail",
    "jmqt",
];

#[test]
fn commands_in_the_documents_are_shell_commands_and_name_existing_files() {
    let names = Names::new();
    let mut problems = Vec::new();
    for snippet in in_language("sh") {
        let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
        bash.stdin.take().unwrap().write_all(snippet.text.as_bytes()).unwrap();
        assert!(bash.wait().unwrap().success(), "{}: not a script", snippet.place());
        for command in commands(&snippet.text) {
            if let Err(problem) = names.check(&command) {
                problems.push(format!("{}: {problem}: {}", snippet.place(), command.join(" ")));
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// The commands of a script, as words. Of here-documents only the command is left.
pub(super) fn commands(script: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let script = script.replace("\\\n", " ");
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        if line.contains("<<'END'") {
            lines.by_ref().take_while(|line| *line != "END").for_each(drop);
        }
        commands.extend(split(line));
    }
    commands
}

/// The commands of one line. Redirections are words too.
fn split(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut quote) = (String::new(), None);
    let end = |word: &mut String, commands: &mut Vec<Vec<String>>| {
        if !word.is_empty() {
            commands.last_mut().unwrap().push(std::mem::take(word));
        }
    };
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some(_), _) => word.push(letter),
            (None, '\'' | '"') => quote = Some(letter),
            (None, '#') if word.is_empty() => break,
            (None, ' ') => end(&mut word, &mut commands),
            (None, '|' | '&' | ';' | '(' | ')') => {
                end(&mut word, &mut commands);
                commands.push(Vec::new());
            }
            (None, _) => word.push(letter),
        }
    }
    end(&mut word, &mut commands);
    commands.retain(|command| !command.is_empty());
    commands
}

/// What commands of this repository may name.
struct Names {
    programs: BTreeSet<String>,
    targets: BTreeSet<String>,
}

impl Names {
    fn new() -> Self {
        let metadata = Command::new(env!("CARGO"))
            .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
            .current_dir(root())
            .output()
            .unwrap();
        let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
        let packages = metadata["packages"].as_array().unwrap().iter();
        let programs = packages
            .flat_map(|package| package["targets"].as_array().unwrap())
            .filter(|target| target["kind"].as_array().unwrap().iter().any(|kind| kind == "bin"));
        let programs = programs.map(|target| target["name"].as_str().unwrap().to_owned()).collect();
        let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
        let targets = makefile.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect();
        Self { programs, targets }
    }

    fn check(&self, command: &[String]) -> Result<(), String> {
        let is_setting = |word: &&String| {
            word.split_once('=')
                .is_some_and(|(name, _)| name.chars().all(|it| it.is_ascii_uppercase() || it == '_'))
        };
        let words: Vec<&str> = command.iter().filter(|word| !is_setting(word)).map(String::as_str).collect();
        let Some((&program, arguments)) = words.split_first() else { return Ok(()) };
        match program {
            "make" => all(arguments, "target", |target| self.targets.contains(target)),
            "cargo" => {
                all(&values(arguments, "--bin"), "program", |program| self.programs.contains(program))?;
                all(&values(arguments, "--path"), "folder", |folder| {
                    root().join(folder).join("Cargo.toml").exists()
                })
            }
            "npm" => all(&values(arguments, "--prefix"), "package", |folder| {
                root().join(folder).join("package.json").exists()
            }),
            _ if PROGRAMS.contains(&program) || self.programs.contains(program) => Ok(()),
            _ => match program.strip_prefix("target/release/") {
                Some(built) if self.programs.contains(built) => Ok(()),
                _ if root().join(program).is_file() => {
                    let script = fs::read_to_string(root().join(program)).unwrap_or_default();
                    let options: Vec<_> =
                        arguments.iter().copied().filter(|word| word.starts_with("--")).collect();
                    all(&options, "option", |option| script.contains(option))
                }
                _ => Err(format!("there is no program {program}")),
            },
        }
    }
}

/// What follows an option, each time.
fn values<'w>(words: &[&'w str], option: &str) -> Vec<&'w str> {
    words.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1]).collect()
}

fn all(names: &[&str], what: &str, is_there: impl Fn(&str) -> bool) -> Result<(), String> {
    match names.iter().find(|name| !is_there(name)) {
        Some(name) => Err(format!("there is no {what} {name}")),
        None => Ok(()),
    }
}

#[test]
fn a_line_is_split_as_a_shell_does() {
    let line = r#"A=1 jmqt pub '{"a b":1}' -q 1 | cat && (echo "x;y"; sleep 1) & # not this"#;
    let split = commands(line).iter().map(|command| command.join(" ")).collect::<Vec<_>>();
    assert_eq!(split, [r#"A=1 jmqt pub {"a b":1} -q 1"#, "cat", "echo x;y", "sleep 1"]);
    assert!(Names::new().check(&["make".to_owned(), "no-target".to_owned()]).is_err());
    assert!(Names::new().check(&["no-program".to_owned()]).is_err());
    let snippet = Snippet {
        file: "a".into(),
        line: 1,
        language: "sh".into(),
        text: "cat > a <<'END'\nb\nEND\ncd c\n".into(),
    };
    assert_eq!(commands(&snippet.text), [vec!["cat", ">", "a", "<<END"], vec!["cd", "c"]]);
}
