//! `airlock run`: gathers what the virtual machine needs, runs it, and says how it ended.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use airlock_abi::errno::Errno;
use vmm::image::{GuestPath, ImageBuilder};
use vmm::terminal::RawMode;
use vmm::{Config, Identity, KernelImage, Outcome, StraceTarget, embedded};

use super::executable::Needs;
use super::libraries;
use super::options::RunOptions;
use super::program::{self, Program, ProgramError};
use super::rootfs::{self, Guest};
use super::volumes;
use super::{FAILED, Failure, NOT_EXECUTABLE, NOT_FOUND, SIGNALED, TIMED_OUT, report};

/// Where programs are in a guest, for programs that look for others.
pub const GUEST_PATH: &[u8] = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The home directory of the only user.
const GUEST_HOME: &[u8] = b"HOME=/root";
/// Where the tour is in the guest.
const TOUR_PATH: &[u8] = b"/bin/tour";

/// How often the interpreter of a script may be a script, as on Linux.
const SCRIPTS: usize = 5;

/// Runs a program, and returns the exit status of the command.
pub fn run(options: RunOptions) -> Result<u8, Failure> {
    start_log(options.verbose);
    let terminal = options.terminal;
    let timeout = options.timeout;
    let config = configure(options)?;
    let program = String::from_utf8_lossy(&config.program).into_owned();
    let directory = String::from_utf8_lossy(&config.directory).into_owned();
    let places: Vec<_> = config
        .volumes
        .iter()
        .map(|volume| String::from_utf8_lossy(&volume.guest).into_owned())
        .collect();

    // From here to the end of the virtual machine; dropping it restores the terminal.
    let raw_mode = if terminal { Some(RawMode::enter()?) } else { None };
    let result = vmm::run(config);
    drop(raw_mode);

    Ok(match result.map_err(|error| Failure::new(chain(&error)))? {
        Outcome::Exited(status) => status,
        Outcome::Signaled(signal) | Outcome::Interrupted(signal) => SIGNALED.saturating_add(signal),
        Outcome::TimedOut => {
            report(&format!("'{program}' has been ended after {:?}", timeout.unwrap_or_default()));
            TIMED_OUT
        }
        Outcome::NotExecutable(error) => {
            report(&format!("cannot execute '{program}' in the guest: {}", why(error)));
            NOT_EXECUTABLE
        }
        Outcome::NotFound => {
            report(&format!("the guest has no '{program}'"));
            NOT_FOUND
        }
        Outcome::NoInterpreter => {
            report(&format!(
                "the guest has no interpreter or dynamic linker that '{program}' needs"
            ));
            NOT_FOUND
        }
        Outcome::NoRoot(error) => {
            report(&format!("the guest kernel cannot mount the root image: {}", root_error(error)));
            FAILED
        }
        Outcome::NoVolume { index, error } => {
            let place = places.get(usize::from(index)).map_or("a place", String::as_str);
            report(&format!("cannot mount a volume at '{place}' in the guest: {}", text(error)));
            FAILED
        }
        Outcome::NoDirectory(error) => {
            report(&format!("cannot enter '{directory}' in the guest: {}", text(error)));
            FAILED
        }
    })
}

/// What strerror(3) says.
fn text(error: u8) -> &'static str {
    Errno::from_number(error.into()).map_or("unknown error", Errno::text)
}

/// Why a program was not executed.
fn why(error: u8) -> &'static str {
    match Errno::from_number(error.into()) {
        Some(Errno::EACCES) => {
            "it is not executable, or in a directory that its user may not search"
        }
        Some(Errno::EISDIR) => "it is a directory",
        Some(Errno::ELOOP) => "it is a chain of too many scripts or symbolic links",
        Some(Errno::EUCLEAN) => "the root image is damaged",
        Some(Errno::EOPNOTSUPP) => {
            "it is compressed in the root image; make that without compression"
        }
        Some(Errno::ENOEXEC | Errno::ENOMEM) | None => "it is damaged, or asks for too much memory",
        Some(other) => other.text(),
    }
}

/// Why an image is none for the guest kernel.
fn root_error(error: u8) -> &'static str {
    match Errno::from_number(error.into()) {
        Some(Errno::EUCLEAN) => "it is damaged",
        Some(Errno::EINVAL) => "it is no EROFS image, or has features that are not supported",
        _ => text(error),
    }
}

/// Starts the log if anyone is going to read it.
fn start_log(verbose: bool) {
    let chosen = std::env::var(env_logger::DEFAULT_FILTER_ENV).ok();
    // virtio_queue reports errors that a guest can cause as often as it likes.
    let default = verbose.then(|| "debug,virtio_queue=off".to_owned());
    if let Some(filter) = chosen.or(default) {
        env_logger::Builder::new().parse_filters(&filter).init();
    }
}

fn configure(mut options: RunOptions) -> Result<Config, Failure> {
    let volumes = volumes::open(&options.volume)?;
    let guest = match options.rootfs.take() {
        Some(source) => rootfs::configure(&source, &mut options)?,
        None => around_program(&mut options)?,
    };
    Ok(Config {
        memory: options.mem,
        cpus: options.cpus,
        kernel: options.kernel.map_or(KernelImage::Embedded(embedded::KERNEL), KernelImage::File),
        root: guest.image,
        volumes,
        program: guest.program,
        arguments: guest.arguments,
        environment: guest.environment,
        directory: guest.directory,
        identity: guest.identity,
        terminal: options.terminal,
        timeout: options.timeout,
        strace: strace_target(options.strace)?,
        verbose: options.verbose,
    })
}

/// A root file system of the program, what it needs, and the files that the user adds.
fn around_program(options: &mut RunOptions) -> Result<Guest, Failure> {
    let mut image = ImageBuilder::new();
    let command = std::mem::take(&mut options.command);
    let mut arguments: Vec<Vec<u8>> = command.into_iter().map(OsString::into_vec).collect();
    let environment = environment(std::mem::take(&mut options.env), options.terminal)?;

    for argument in &options.file {
        let (host, guest) = split_file(argument)?;
        image.add(host, &guest)?;
    }
    let program = if let Some(name) = arguments.first() {
        let search_path = std::env::var_os("PATH");
        let program = Program::find(OsStr::from_bytes(name), search_path.as_deref())
            .map_err(|error| Failure { status: error.status(), message: error.to_string() })?;
        let guest = program.guest.as_bytes().to_vec();
        let called = if options.workdir.is_none() { program.called(name) } else { guest };
        add_program(&mut image, program, &environment, SCRIPTS)?;
        called
    } else {
        arguments.push(b"tour".to_vec());
        let guest = GuestPath::new(TOUR_PATH)?;
        image.add_embedded(embedded::TOUR, &guest)?;
        TOUR_PATH.to_vec()
    };
    let directory = match &options.workdir {
        Some(directory) => GuestPath::new(directory.as_bytes())?,
        None => program::guest_directory()?,
    };
    image.add_directory(&directory)?;
    Ok(Guest {
        image: image.build()?,
        program,
        arguments,
        environment,
        directory: directory.as_bytes().to_vec(),
        identity: Identity::default(),
    })
}

/// Adds a program to the image, and what it needs: the interpreter of a script, the dynamic linker, the
/// libraries. `scripts` is how many more scripts may be interpreters of each other.
fn add_program(
    image: &mut ImageBuilder,
    program: Program,
    environment: &[Vec<u8>],
    scripts: usize,
) -> Result<(), Failure> {
    let failure =
        |error: ProgramError| Failure { status: error.status(), message: error.to_string() };
    match &program.needs {
        Needs::Nothing => {}
        // The guest kernel says ELOOP of too many.
        Needs::Interpreter(_) if scripts == 0 => {}
        Needs::Interpreter(path) => {
            let interpreter = program.open_interpreter(path).map_err(failure)?;
            add_program(image, interpreter, environment, scripts - 1)?;
        }
        Needs::DynamicLinker(path) => {
            program.open_interpreter(path).map_err(failure)?;
            let variables = libraries::Variables {
                path: variable(environment, b"LD_LIBRARY_PATH"),
                preload: variable(environment, b"LD_PRELOAD"),
            };
            for library in libraries::find(&program.host, &program.file, path, variables) {
                image.add_missing(&library, &program::guest_path(&library)?)?;
            }
        }
    }
    if let Some(target) = &program.target {
        image.add_symlink(&program.guest, target)?;
    }
    let guest = program.target.as_ref().unwrap_or(&program.guest);
    Ok(image.add_opened(&program.host, program.file, guest)?)
}

/// The value of a variable.
fn variable<'a>(environment: &'a [Vec<u8>], name: &[u8]) -> Option<&'a OsStr> {
    let value = |variable: &'a Vec<u8>| variable.strip_prefix(name)?.strip_prefix(b"=");
    environment.iter().find_map(value).map(OsStr::from_bytes)
}

/// Reads `HOST[:GUEST]`. The last colon separates; a GUEST that ends in a slash is a directory for
/// the file.
fn split_file(argument: &OsStr) -> Result<(&Path, GuestPath), Failure> {
    let bytes = argument.as_bytes();
    let Some(colon) = bytes.iter().rposition(|&byte| byte == b':') else {
        let host = Path::new(argument);
        return Ok((host, program::guest_path(host)?));
    };
    let (host, guest) = (Path::new(OsStr::from_bytes(&bytes[..colon])), &bytes[colon + 1..]);
    let path = GuestPath::new(guest)?;
    match host.file_name() {
        Some(name) if guest.ends_with(b"/") => Ok((host, path.join(name.as_bytes())?)),
        _ => Ok((host, path)),
    }
}

/// The program's environment: a few variables that programs expect, then what the user says.
fn environment(chosen: Vec<OsString>, terminal: bool) -> Result<Vec<Vec<u8>>, Failure> {
    let mut variables = vec![GUEST_PATH.to_vec(), GUEST_HOME.to_vec()];
    set_variables(&mut variables, chosen, terminal)?;
    Ok(variables)
}

/// Adds variables as the user names them, after that of the terminal if there is one.
pub fn set_variables(
    variables: &mut Vec<Vec<u8>>,
    chosen: Vec<OsString>,
    terminal: bool,
) -> Result<(), Failure> {
    if terminal {
        let kind = std::env::var_os("TERM").unwrap_or_else(|| "linux".into());
        set(variables, [b"TERM=", kind.as_bytes()].concat(), b"TERM".len());
    }
    for variable in chosen {
        let bytes = variable.as_bytes();
        let Some(equals) = bytes.iter().position(|&byte| byte == b'=') else {
            // A variable that is not set here is not set there.
            if let Some(value) = std::env::var_os(&variable) {
                set(variables, [bytes, b"=", value.as_bytes()].concat(), bytes.len());
            }
            continue;
        };
        if equals == 0 {
            let text = variable.to_string_lossy();
            return Err(Failure::new(format!("--env '{text}' has no name before the '='")));
        }
        let length = equals;
        set(variables, variable.into_vec(), length);
    }
    Ok(())
}

/// Sets a variable whose name has `length` bytes, in place of one of that name.
fn set(variables: &mut Vec<Vec<u8>>, variable: Vec<u8>, length: usize) {
    let name = &variable[..=length];
    match variables.iter_mut().find(|other| other.starts_with(name)) {
        Some(other) => *other = variable,
        None => variables.push(variable),
    }
}

#[expect(clippy::option_option, reason = "as clap returns it")]
fn strace_target(
    option: Option<Option<std::path::PathBuf>>,
) -> Result<Option<StraceTarget>, Failure> {
    Ok(match option {
        None => None,
        Some(None) => Some(StraceTarget::Stderr),
        Some(Some(path)) => {
            let file = File::create(&path).map_err(|error| {
                Failure::new(format!("cannot write '{}': {error}", path.display()))
            })?;
            Some(StraceTarget::File(file))
        }
    })
}

/// An error with its sources, unless their text is in its own already.
fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = error.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(chosen: &[&str]) -> Vec<String> {
        let chosen = chosen.iter().map(OsString::from).collect();
        let variables =
            environment(chosen, false).unwrap_or_else(|failure| panic!("{}", failure.message));
        variables.into_iter().map(|variable| String::from_utf8(variable).unwrap()).collect()
    }

    #[test]
    fn variables_replace_those_of_the_same_name_and_no_others() {
        let all = variables(&["A=1", "HOM=x", "HOME=/h=1", "A=2", "EMPTY="]);
        assert_eq!(all[1..], ["HOME=/h=1", "A=2", "HOM=x", "EMPTY="]);
        assert!(environment(vec!["=x".into()], false).is_err());
    }

    #[test]
    fn a_variable_without_a_value_is_the_hosts() {
        let path = std::env::var("PATH").unwrap();
        assert_eq!(variables(&["PATH"])[0], format!("PATH={path}"));
        assert_eq!(variables(&["NOT_A_VARIABLE_HERE"]).len(), 2);
    }

    #[test]
    fn a_terminal_has_a_kind() {
        let variables =
            environment(Vec::new(), true).unwrap_or_else(|failure| panic!("{}", failure.message));
        assert!(variables.iter().any(|variable| variable.starts_with(b"TERM=")));
    }

    #[test]
    fn files_have_a_place_in_the_guest() {
        let split = |argument: &str| {
            split_file(OsStr::new(argument))
                .map(|(host, guest)| (host.to_owned(), guest.to_string()))
                .ok()
        };
        assert_eq!(split("/a/b"), Some(("/a/b".into(), "/a/b".to_owned())));
        assert_eq!(split("a:/b"), Some(("a".into(), "/b".to_owned())));
        assert_eq!(split("x/a:/b/"), Some(("x/a".into(), "/b/a".to_owned())));
        assert_eq!(split("a:b:/c"), Some(("a:b".into(), "/c".to_owned())));
        for bad in ["a:b", "a:", "a:../b", "a:/b/../c"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
