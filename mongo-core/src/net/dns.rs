use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;

#[cfg(feature = "dns")]
mod hickory;
#[cfg(test)]
mod tests;

#[cfg(feature = "dns")]
pub use hickory::HickoryResolver;

use super::deadline::{Deadline, Elapsed};
use crate::callback::guard_async;
use crate::error::{Error, Result, Wait};
use crate::uri::{ClientOptions, RecordType, SrvError, SrvRecord, TxtRecord};

const RESOLVER: &str = "DNS resolver";

/// Asks DNS for SRV and TXT records: the seam for a resolver of your own. With feature `dns` there
/// is `HickoryResolver`.
///
/// Names are absolute, without a dot at their end: no search domain is to be added. The caller
/// bounds the call and drops the future when that is over. What comes back is verified by the
/// caller; an implementation bounds what it reads, as DNS does by itself with messages of at most
/// 64 KiB. A panic in it is caught and logged, and counts as a failed lookup.
#[async_trait]
pub trait DnsResolver: Send + Sync + 'static {
    /// The SRV records of a name; none if there are none, or no such name.
    ///
    /// # Errors
    /// Why DNS could not be asked, or did not answer.
    async fn srv_lookup(&self, name: &str) -> io::Result<Vec<SrvRecord>>;

    /// The TXT records of a name; none if there are none, or no such name.
    ///
    /// # Errors
    /// Why DNS could not be asked, or did not answer.
    async fn txt_lookup(&self, name: &str) -> io::Result<Vec<TxtRecord>>;
}

/// Makes a `mongodb+srv` connection string into options with hosts: looks up its SRV and TXT
/// records, side by side, and takes them by [`ClientOptions::with_records`].
///
/// `random` chooses the hosts where `srvMaxHosts` allows fewer than there are:
/// [`system_random`] unless a test wants the same ones again. Options that name their hosts come
/// back as they are, and DNS is not asked. Bounded by `connectTimeoutMS` (default 10 s) and by the
/// deadline, whichever is earlier. Dropped meanwhile, it leaves nothing behind.
///
/// Pools of one server are made from options with hosts, so this comes before:
/// ```no_run
/// use mongo_core::net::{DnsResolver, resolve, system_random};
/// use mongo_core::pools::ConnectionFactory;
/// use mongo_core::{ClientOptions, Deadline};
///
/// # async fn example(resolver: &dyn DnsResolver) -> mongo_core::Result<()> {
/// let options = ClientOptions::parse("mongodb+srv://cluster0.example.com/?tls=false")?;
/// let options = resolve(options, resolver, system_random, Deadline::never()).await?;
/// let factory = ConnectionFactory::builder(options).build()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ErrorKind::Srv`](crate::ErrorKind::Srv) that names the record, or a time-out that names the
/// host.
pub async fn resolve(
    options: ClientOptions,
    resolver: &dyn DnsResolver,
    mut random: impl FnMut() -> u64,
    deadline: Deadline,
) -> Result<ClientOptions> {
    let Some(srv) = &options.srv else {
        return Ok(options);
    };
    let (record_name, host_name) = (srv.record_name()?, srv.bare_host_name());
    let deadline = deadline.within(options.connect_timeout);
    let lookups = async {
        tokio::try_join!(
            lookup_srv(resolver, &record_name),
            lookup_txt(resolver, host_name)
        )
    };
    let (records, txt) = match deadline.bound(lookups).await {
        Ok(outcome) => outcome?,
        Err(Elapsed) => {
            let unanswered = Error::from(SrvError::Unanswered(srv.host_name.clone()));
            let error = deadline.timed_out(Wait::Dns);
            return Err(error.caused_by(Some(unanswered)));
        }
    };
    Ok(options.with_records(&records, &txt, &mut random)?)
}

async fn lookup_srv(resolver: &dyn DnsResolver, name: &str) -> Result<Vec<SrvRecord>, SrvError> {
    let outcome = srv_lookup(resolver, name).await;
    outcome.map_err(|error| failed(RecordType::Srv, name, error))
}

async fn lookup_txt(resolver: &dyn DnsResolver, name: &str) -> Result<Vec<TxtRecord>, SrvError> {
    let outcome = guard_async(RESOLVER, || resolver.txt_lookup(name)).await;
    let outcome = outcome.unwrap_or_else(|panicked| Err(panicked.into_io()));
    outcome.map_err(|error| failed(RecordType::Txt, name, error))
}

/// Asks the resolver for SRV records.
pub(super) async fn srv_lookup(
    resolver: &dyn DnsResolver,
    name: &str,
) -> io::Result<Vec<SrvRecord>> {
    let outcome = guard_async(RESOLVER, || resolver.srv_lookup(name)).await;
    outcome.unwrap_or_else(|panicked| Err(panicked.into_io()))
}

fn failed(record_type: RecordType, name: &str, error: io::Error) -> SrvError {
    SrvError::Lookup {
        record_type,
        name: name.to_owned(),
        error: Arc::new(error),
    }
}

/// A number at random, uniform over all `u64`: good enough to spread load, not for secrets.
pub fn system_random() -> u64 {
    // Every new state has other keys, made from the system's randomness.
    RandomState::new().hash_one(())
}
