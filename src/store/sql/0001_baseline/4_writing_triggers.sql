-- The triggers whose state gates watch, and the audit's. A gate that finds one of them made anew reads everything again
-- (feed/triggers.ts): so an upgrade from a form that has all of them as they are here leaves this file out (migrate.ts).

CREATE OR REPLACE TRIGGER a_prepare BEFORE INSERT OR UPDATE ON __schema__.revocations
  FOR EACH ROW EXECUTE FUNCTION __schema__.prepare_revocation();
CREATE OR REPLACE TRIGGER a_stamp BEFORE INSERT OR UPDATE ON __schema__.revocations
  FOR EACH ROW EXECUTE FUNCTION __schema__.stamp();
CREATE OR REPLACE TRIGGER b_guard_wide BEFORE INSERT OR UPDATE ON __schema__.revocations
  FOR EACH ROW EXECUTE FUNCTION __schema__.guard_wide();
CREATE OR REPLACE TRIGGER c_announce_update AFTER UPDATE ON __schema__.revocations
  REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION __schema__.announce('r');
CREATE OR REPLACE TRIGGER c_announce_delete AFTER DELETE ON __schema__.revocations
  REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION __schema__.announce('r');
CREATE OR REPLACE TRIGGER c_entomb AFTER UPDATE OR DELETE ON __schema__.revocations
  FOR EACH ROW EXECUTE FUNCTION __schema__.entomb('r');
CREATE OR REPLACE TRIGGER c_announce_insert AFTER INSERT ON __schema__.revocations
  REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION __schema__.announce_revocations();
CREATE OR REPLACE TRIGGER d_renew AFTER TRUNCATE ON __schema__.revocations
  FOR EACH STATEMENT EXECUTE FUNCTION __schema__.renew();
CREATE OR REPLACE TRIGGER d_renew AFTER TRUNCATE ON __schema__.tomb
  FOR EACH STATEMENT EXECUTE FUNCTION __schema__.renew();
CREATE OR REPLACE TRIGGER e_audit_update AFTER UPDATE ON __schema__.revocations
  REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION __schema__.keep_image();
CREATE OR REPLACE TRIGGER e_audit_delete AFTER DELETE ON __schema__.revocations
  REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION __schema__.keep_image();
CREATE OR REPLACE TRIGGER e_audit_truncate AFTER TRUNCATE ON __schema__.revocations
  FOR EACH STATEMENT EXECUTE FUNCTION __schema__.keep_image();
CREATE OR REPLACE TRIGGER a_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON __schema__.audit
  FOR EACH STATEMENT EXECUTE FUNCTION __schema__.refuse_change();
CREATE OR REPLACE TRIGGER a_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON __schema__.claim_pointers
  FOR EACH STATEMENT EXECUTE FUNCTION __schema__.refuse_change();

SELECT __schema__.enable_triggers();
