//! The runtime environment: a function service, a container, an operating system.

use std::fmt;

use bson::RawDocumentBuf;
use bson::raw::cstr;

/// Access to the process's environment for the metadata. The metadata uses only these functions, so
/// that building it does no I/O of its own.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Environment<'a> {
    /// An environment variable by its name; `None` if it is unset or not UTF-8.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Whether a file exists, by its absolute path. Called with `/.dockerenv`.
    pub file_exists: &'a dyn Fn(&str) -> bool,
}

impl Environment<'static> {
    /// An environment without variables and files.
    pub const EMPTY: Self = Self {
        variable: &|_| None,
        file_exists: &|_| false,
    };
}

impl fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}

impl<'a> Environment<'a> {
    /// An environment of functions that read a variable and look for a file.
    pub fn new(
        variable: &'a dyn Fn(&str) -> Option<String>,
        file_exists: &'a dyn Fn(&str) -> bool,
    ) -> Self {
        Self {
            variable,
            file_exists,
        }
    }
}

impl Environment<'_> {
    /// Whether the process runs on a function service, such as AWS Lambda.
    pub fn is_faas(&self) -> bool {
        FunctionService::detect(self).is_some()
    }

    /// A variable that is set and not empty.
    fn populated(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// A variable that holds a number.
    fn number(&self, name: &str) -> Option<i32> {
        self.populated(name)?.parse().ok()
    }
}

/// The function services of the handshake specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FunctionService {
    AwsLambda,
    AzureFunctions,
    GcpFunctions,
    Vercel,
}

impl FunctionService {
    fn name(self) -> &'static str {
        match self {
            Self::AwsLambda => "aws.lambda",
            Self::AzureFunctions => "azure.func",
            Self::GcpFunctions => "gcp.func",
            Self::Vercel => "vercel",
        }
    }

    /// The service that the process runs in. Vercel runs on AWS; any other combination gives
    /// `None`.
    fn detect(environment: &Environment<'_>) -> Option<Self> {
        let set = |name| environment.populated(name).is_some();
        let lambda = environment
            .populated("AWS_EXECUTION_ENV")
            .is_some_and(|value| value.starts_with("AWS_Lambda_"));
        let aws = lambda || set("AWS_LAMBDA_RUNTIME_API");
        let azure = set("FUNCTIONS_WORKER_RUNTIME");
        let gcp = set("K_SERVICE") || set("FUNCTION_NAME");
        match (set("VERCEL"), aws, azure, gcp) {
            (true, _, false, false) => Some(Self::Vercel),
            (false, true, false, false) => Some(Self::AwsLambda),
            (false, false, true, false) => Some(Self::AzureFunctions),
            (false, false, false, true) => Some(Self::GcpFunctions),
            _ => None,
        }
    }
}

/// The `env` document's fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    name: Option<&'static str>,
    timeout_sec: Option<i32>,
    memory_mb: Option<i32>,
    region: Option<String>,
    docker: bool,
    kubernetes: bool,
}

impl Surroundings {
    pub(super) fn read(environment: &Environment<'_>) -> Self {
        let service = FunctionService::detect(environment);
        let region = |name| environment.populated(name);
        let number = |name| environment.number(name);
        let mut read = match service {
            None | Some(FunctionService::AzureFunctions) => Self::default(),
            Some(FunctionService::AwsLambda) => Self {
                region: region("AWS_REGION"),
                memory_mb: number("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
                ..Self::default()
            },
            Some(FunctionService::GcpFunctions) => Self {
                region: region("FUNCTION_REGION"),
                memory_mb: number("FUNCTION_MEMORY_MB"),
                timeout_sec: number("FUNCTION_TIMEOUT_SEC"),
                ..Self::default()
            },
            Some(FunctionService::Vercel) => Self {
                region: region("VERCEL_REGION"),
                ..Self::default()
            },
        };
        read.name = service.map(FunctionService::name);
        read.docker = (environment.file_exists)("/.dockerenv");
        read.kubernetes = environment.populated("KUBERNETES_SERVICE_HOST").is_some();
        read
    }

    /// Only the service's name, which is the last field to be left out.
    pub(super) fn name_only(&self) -> Self {
        Self {
            name: self.name,
            ..Self::default()
        }
    }

    /// The `env` document; `None` if it would be empty.
    pub(super) fn document(&self) -> Option<RawDocumentBuf> {
        let mut env = RawDocumentBuf::new();
        if let Some(name) = self.name {
            env.append(cstr!("name"), name);
        }
        if let Some(seconds) = self.timeout_sec {
            env.append(cstr!("timeout_sec"), seconds);
        }
        if let Some(megabytes) = self.memory_mb {
            env.append(cstr!("memory_mb"), megabytes);
        }
        if let Some(region) = &self.region {
            env.append(cstr!("region"), region.as_str());
        }
        let mut container = RawDocumentBuf::new();
        if self.docker {
            container.append(cstr!("runtime"), "docker");
        }
        if self.kubernetes {
            container.append(cstr!("orchestrator"), "kubernetes");
        }
        if !container.is_empty() {
            env.append(cstr!("container"), container);
        }
        (!env.is_empty()).then_some(env)
    }
}

/// The operating system's name, as `uname -s` prints it.
pub(super) fn os_type() -> &'static str {
    match std::env::consts::OS {
        "linux" | "android" => "Linux",
        "macos" | "ios" => "Darwin",
        "windows" => "Windows",
        "freebsd" => "FreeBSD",
        "netbsd" => "NetBSD",
        "openbsd" => "OpenBSD",
        "dragonfly" => "DragonFly",
        "solaris" | "illumos" => "SunOS",
        "aix" => "AIX",
        _ => "unknown",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bson::rawdoc;

    use super::*;

    /// An environment with some variables, in Docker or not.
    pub(in crate::handshake) fn with<R>(
        variables: &[(&str, &str)],
        docker: bool,
        run: impl FnOnce(&Environment<'_>) -> R,
    ) -> R {
        let find = |name: &str| {
            let (_, value) = variables.iter().find(|(key, _)| *key == name)?;
            Some((*value).to_owned())
        };
        run(&Environment {
            variable: &find,
            file_exists: &|path| docker && path == "/.dockerenv",
        })
    }

    fn env(variables: &[(&str, &str)], docker: bool) -> Option<RawDocumentBuf> {
        with(variables, docker, Surroundings::read).document()
    }

    #[test]
    fn functions_and_containers_in_every_mixture() {
        let name = |name: &str| Some(rawdoc! { "name": name });
        assert_eq!(env(&[], false), None);
        assert_eq!(env(&[("VERCEL", "")], false), None);
        assert_eq!(
            env(&[("AWS_LAMBDA_RUNTIME_API", "x")], false),
            name("aws.lambda")
        );
        assert_eq!(env(&[("FUNCTION_NAME", "x")], false), name("gcp.func"));
        let vercel_on_aws = [("VERCEL", "1"), ("AWS_LAMBDA_RUNTIME_API", "x")];
        assert_eq!(env(&vercel_on_aws, false), name("vercel"));
        let vercel_on_three = [vercel_on_aws[0], vercel_on_aws[1], ("K_SERVICE", "x")];
        assert_eq!(env(&vercel_on_three, false), None);
        assert_eq!(env(&[("VERCEL", "1"), ("K_SERVICE", "x")], false), None);
        let containers = rawdoc! {
            "container": { "runtime": "docker", "orchestrator": "kubernetes" }
        };
        // The service is ambiguous, but the other fields are still known.
        let both = [
            ("K_SERVICE", "x"),
            ("FUNCTIONS_WORKER_RUNTIME", "y"),
            ("KUBERNETES_SERVICE_HOST", "z"),
        ];
        assert_eq!(env(&both, true), Some(containers));
        let timeout = [("K_SERVICE", "x"), ("FUNCTION_TIMEOUT_SEC", "4294967296")];
        assert_eq!(env(&timeout, false), name("gcp.func"));
    }
}
