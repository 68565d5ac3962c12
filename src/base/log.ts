/** A logger is a narrow port: components get one, and never know where lines go. */

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface LogRecord {
  level: LogLevel;
  component: string;
  message: string;
  fields?: Record<string, unknown>;
}
export type LogSink = (record: LogRecord) => void;

export interface Log {
  trace(message: string, fields?: Record<string, unknown>): void;
  debug(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  error(message: string, fields?: Record<string, unknown>): void;
}

/** A logger for one component that hands records at or above `threshold` to `sink`. */
export function createLog(component: string, sink: LogSink, threshold: LogLevel = 'info'): Log {
  const floor = LOG_LEVELS.indexOf(threshold);
  const at = (level: LogLevel) =>
    LOG_LEVELS.indexOf(level) < floor
      ? () => {}
      : (message: string, fields?: Record<string, unknown>) => sink({ level, component, message, fields });
  return { trace: at('trace'), debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}

export const silentLog: Log = createLog('silent', () => {}, 'error');
