-- Failures by fingerprint (workflow, step, code): the groups are found by going from one to the next, and each is counted from the
-- index alone. A job is in it only while it is failed, and a step that fails for good changes an indexed column (status) anyway, so
-- that nothing on the way to success pays for it.
create index jobs_failed_by_fingerprint on jobs (organization_id, workflow, error_code, error_step, finished_at) where status = 'failed';
